package tick

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func started(t testing.TB) *Clock {
	var k Clock
	k.Start()
	t.Cleanup(k.Stop)
	return &k
}

// counting waits until the counter is in use; false where it is not to be, or the machine is younger than two minutes.
func counting(t testing.TB, k *Clock) bool {
	if !k.used {
		return false
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		k.Renew()
		if k.Before(math.MaxInt64) {
			return true
		}
		if counted.slow.Load() || float64(counter()) < settled*counted.rate() {
			return false
		}
	}
	t.Fatal("no grant in 30 s")
	return false
}

// Readers ask about one moment after the other: no one is told that it has not come when it has, nor the other way
// round.
func TestDeadlinesAreExact(t *testing.T) {
	k := started(t)
	counting(t, k)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				end := k.Now() + int64(25*time.Millisecond)
				for {
					before := k.Now()
					lives := k.Before(end) || k.Renew() < end
					if lives && before >= end {
						t.Errorf("lives %d ns after its end", before-end)
					}
					if after := k.Now(); !lives && after < end {
						t.Errorf("dead %d ns before its end", end-after)
					}
					if !lives {
						break
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestClockKeepsTime(t *testing.T) {
	k := started(t)
	low := time.Now()
	a := k.Renew()
	high := time.Now()
	require.GreaterOrEqual(t, a, int64(low.Sub(k.start)))
	require.LessOrEqual(t, a, int64(high.Sub(k.start)))
	require.GreaterOrEqual(t, k.Now(), a)
	require.False(t, k.Before(a))
}

func TestBubblesNeverUseTheCounter(t *testing.T) {
	outside := started(t)
	counts := counting(t, outside)
	synctest.Test(t, func(t *testing.T) {
		k := started(t)
		require.False(t, k.used)
		for range 20 {
			require.False(t, k.Before(math.MaxInt64))
			require.Equal(t, k.Now(), k.Renew())
			k.Check()
			time.Sleep(20 * time.Millisecond)
		}
		require.EqualValues(t, 400*time.Millisecond, k.Now())
		outside.Check()
		outside.Renew()
	})
	counted.mu.Lock()
	defer counted.mu.Unlock()
	require.GreaterOrEqual(t, counted.anchor.mono, int64(0), "the bubble's time came in")
	require.True(t, !counts || outside.last > 0)
}

func TestStop(t *testing.T) {
	k := started(t)
	counting(t, k)
	k.Check()
	k.Stop()
	require.False(t, k.Before(math.MaxInt64))
	k.Check()
	require.GreaterOrEqual(t, k.Renew(), int64(0))
	require.False(t, k.Before(math.MaxInt64))
}

func BenchmarkClock(b *testing.B) {
	k := started(b)
	end := int64(time.Hour)
	b.Run("Before", func(b *testing.B) {
		for b.Loop() {
			if !k.Before(end) {
				k.Renew()
			}
		}
	})
	b.Run("Now", func(b *testing.B) {
		for b.Loop() {
			k.Now()
		}
	})
	b.Run("counter", func(b *testing.B) {
		for b.Loop() {
			counter()
		}
	})
}
