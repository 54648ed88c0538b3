package cache

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Readers in a tight loop around the deadline: served until it comes, and not after, for every kind of entry that ends.
func TestDeadlinesAreExactInRealTime(t *testing.T) {
	load := func(context.Context, int) (int, error) { return 0, ErrNotFound }
	gets := map[string]func(*Cache[int, int]) bool{
		"Get":  func(c *Cache[int, int]) bool { _, ok := c.Get(1); return ok },
		"Load": func(c *Cache[int, int]) bool { _, err := c.Load(context.Background(), 1, load); return err == nil },
	}
	for name, o := range map[string]Options[int, int]{
		"timed":    {},
		"weighted": {MaxWeight: 1000, Weigh: func(int, int) int64 { return 1 }},
		"idle":     {Idle: time.Hour},
		"LRU":      {Policy: LRU},
		"early":    {EarlyRefresh: 1e-9},
	} {
		for how, get := range gets {
			t.Run(name+"/"+how, func(t *testing.T) {
				c, err := New(o)
				require.NoError(t, err)
				defer c.Close()
				for range 5 {
					var mu sync.Mutex
					mu.Lock() // until the entry is there
					var set, done time.Time
					const ttl = 25 * time.Millisecond
					var wg sync.WaitGroup
					for range 2 {
						wg.Go(func() {
							mu.Lock()
							low, high := set.Add(ttl), done.Add(ttl) // the deadline lies between
							mu.Unlock()
							for {
								before := time.Now()
								lives := get(c)
								after := time.Now()
								if lives && !before.Before(high) {
									t.Errorf("served %v after its end", before.Sub(high))
								}
								if !lives && after.Before(low) {
									t.Errorf("gone %v before its end", low.Sub(after))
								}
								if !lives {
									return
								}
							}
						})
					}
					set = time.Now()
					c.SetTTL(1, 1, ttl)
					done = time.Now()
					mu.Unlock()
					wg.Wait()
				}
			})
		}
	}
}

// The counter is asked where it may be, and only there.
func TestCounterIsUsed(t *testing.T) {
	use := func(o Options[int, int]) *Cache[int, int] {
		o.TTL = time.Hour
		c, err := New(o)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.False(t, c.counted.Load(), "nothing ends yet")
		c.Set(1, 1)
		return c
	}
	c := use(Options[int, int]{})
	require.Equal(t, c.clock.Counts(), c.counted.Load())
	require.False(t, use(Options[int, int]{Idle: time.Minute}).counted.Load(), "needs the time itself")
	require.False(t, use(Options[int, int]{ClockError: time.Second}).counted.Load(), "has a clock of its own")
	require.False(t, use(Options[int, int]{Policy: LRU}).counted.Load())
	synctest.Test(t, func(t *testing.T) {
		c := use(Options[int, int]{})
		require.False(t, c.counted.Load(), "time is not real here")
		require.NoError(t, c.Close())
	})
	require.NoError(t, c.Close())
	require.False(t, c.counted.Load(), "nobody would check it")
	require.False(t, c.clock.Before(math.MaxInt64))
	v, ok := c.Get(1)
	require.True(t, ok)
	require.Equal(t, 1, v)
	c.Set(1, 2)
	require.False(t, c.counted.Load())
}
