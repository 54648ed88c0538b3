package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/internal/test/hooktest"
)

// The table of Machine's comment, walked: each step is an observation one second after the last.
func TestMachineTable(t *testing.T) {
	type step struct {
		ok   bool
		want State
	}
	for name, c := range map[string]struct {
		cfg   Config
		steps []step
	}{
		"first success is up":   {Config{}, []step{{true, Up}}},
		"unknown falls after 3": {Config{}, []step{{false, Unknown}, {false, Unknown}, {false, Down}}},
		"a success forgets": {Config{}, []step{{true, Up}, {false, Up}, {false, Up}, {true, Up}, {false, Up},
			{false, Up}, {false, Down}}},
		"rises after 2": {Config{Fall: 1},
			[]step{{false, Down}, {true, Down}, {false, Down}, {true, Down}, {true, Up}}},
		"hold delays the flip": {Config{Fall: 1, Rise: 1, MinHold: 3 * time.Second},
			[]step{{true, Up}, {false, Up}, {false, Up}, {false, Down}, {true, Down}, {true, Down}, {true, Up}}},
		"unknown ignores a hold": {Config{Fall: 1, MinHold: time.Hour}, []step{{false, Down}}},
	} {
		t.Run(name, func(t *testing.T) {
			m, now, last := NewMachine(c.cfg), time.Unix(1000, 0), Unknown
			for i, s := range c.steps {
				changed := m.Observe(s.ok, now)
				require.Equal(t, s.want, m.State(), "step %d", i)
				require.Equal(t, m.State() != last, changed, "step %d", i)
				require.Equal(t, m.State() != Down, m.Up())
				last, now = m.State(), now.Add(time.Second)
			}
		})
	}
}

func TestMachineNeverFlipsWithinHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hold := time.Duration(rapid.IntRange(1, 20).Draw(t, "hold")) * time.Second
		m := NewMachine(Config{Rise: rapid.IntRange(1, 4).Draw(t, "rise"), Fall: rapid.IntRange(1, 4).Draw(t, "fall"),
			MinHold: hold})
		now, flipped := time.Unix(0, 0), time.Time{}
		for _, ok := range rapid.SliceOfN(rapid.Bool(), 0, 200).Draw(t, "results") {
			now = now.Add(time.Second)
			if m.Observe(ok, now) {
				if !flipped.IsZero() && now.Sub(flipped) < hold {
					t.Fatalf("flipped after %v, hold %v", now.Sub(flipped), hold)
				}
				flipped = now
			}
		}
	})
}

func TestForce(t *testing.T) {
	m := NewMachine(Config{})
	now := time.Unix(5, 0)
	require.True(t, m.Force(Down, now))
	require.False(t, m.Force(Down, now))
	require.Equal(t, now, m.Since())
	require.False(t, m.Up())
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		refused := errors.New("refused")
		var errs []error
		var tooks []time.Duration
		n := 0
		start := time.Now()
		Run(ctx, Schedule{Interval: time.Second, Timeout: 100 * time.Millisecond, Jitter: -1},
			func(ctx context.Context) error {
				n++
				switch n {
				case 1:
					return nil
				case 2:
					return refused
				case 3:
					panic("boom")
				case 4:
					<-ctx.Done()
					return ctx.Err()
				}
				cancel()
				return nil
			}, func(err error, took time.Duration) { errs, tooks = append(errs, err), append(tooks, took) })
		require.Len(t, errs, 4, "the probe cut by cancel is not reported")
		require.NoError(t, errs[0])
		require.ErrorIs(t, errs[1], refused)
		require.ErrorContains(t, errs[2], "boom")
		require.ErrorIs(t, errs[3], context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, tooks[3])
		require.Equal(t, 4*time.Second, time.Since(start), "starts are one interval apart, whatever a probe takes")
	})
}

// A probe that ignores its context fails at its deadline and again each interval, alone; Run ends without it.
func TestRunLeavesABlockingProbeBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		started, start := 0, time.Now()
		var errs []error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Run(ctx, Schedule{Interval: time.Second, Timeout: 100 * time.Millisecond, Jitter: -1},
				func(context.Context) error {
					if started++; started == 1 {
						<-release
					}
					return nil
				}, func(err error, _ time.Duration) { errs = append(errs, err) })
		}()
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, 1, started, "not a second one beside it")
		require.Len(t, errs, 4)
		require.ErrorIs(t, errs[0], context.DeadlineExceeded)
		require.ErrorIs(t, errs[3], errRunning)
		close(release)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 2, started)
		require.NoError(t, errs[4])
		cancel()
		<-ended
		require.Equal(t, 4500*time.Millisecond, time.Since(start))
	})
}

// The owner of a prober keeps judging and closes, whatever the probe does.
func TestProbeProof(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		ctx, cancel := context.WithCancel(context.Background())
		m, ended := &observer{}, make(chan struct{})
		start := make(chan struct{})
		go func() {
			defer close(ended)
			<-start
			Run(ctx, Schedule{Interval: time.Second, Jitter: -1}, func(context.Context) error {
				misbehave()
				return nil
			}, func(error, time.Duration) { m.n.Add(1) })
		}()
		stop := func() { cancel(); <-ended }
		var once sync.Once
		return hooktest.Subject{
			Object:  m,
			Trigger: func() { once.Do(func() { close(start) }) },
			Works: func() error {
				before := m.n.Load()
				time.Sleep(5 * time.Second)
				if n := m.n.Load() - before; n < 4 {
					return fmt.Errorf("%d results in 5 s", n)
				}
				return nil
			},
			Close: stop,
		}
	})
}

type observer struct{ n atomic.Int64 }
