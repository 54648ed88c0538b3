package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

// "Rather stale than nothing" for the largest Duration does not make entries fresh for ever.
func TestStaleForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, o := range []cache.Options[int, string]{{StaleFor: math.MaxInt64}, {StaleIfError: math.MaxInt64}} {
			o.TTL = time.Minute
			c := newCache(t, o)
			c.Set(1, "old")
			for range 3 {
				time.Sleep(1000 * time.Hour)
				_, ok := c.Get(1)
				require.False(t, ok)
				v, err := c.Load(t.Context(), 1, func(context.Context, int) (string, error) {
					return "", errors.New("down")
				})
				require.NoError(t, err)
				require.Equal(t, "old", v)
				synctest.Wait()
			}
			for range 2 { // stale at first where that is allowed
				_, err := c.Load(t.Context(), 1, func(context.Context, int) (string, error) { return "new", nil })
				require.NoError(t, err)
				synctest.Wait()
			}
			v, ok := c.Get(1)
			require.True(t, ok)
			require.Equal(t, "new", v)
			require.NoError(t, c.Close())
		}
	})
}

// Weigh is the application's: it may look into the cache, and when it panics nothing stays locked.
func TestWeighIsCalledWithoutLocks(t *testing.T) {
	var c *cache.Cache[int, []byte]
	c = newCache(t, cache.Options[int, []byte]{MaxWeight: 100, Policy: cache.LRU, Weigh: func(k int, v []byte) int64 {
		c.Get(k)
		return int64(v[0])
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Set(1, []byte{1})
		for _, k := range []int{1, 2} {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("it panicked")
					}
				}()
				c.Set(k, nil)
			}()
			c.Set(k, []byte{2})
		}
		_, err := c.Load(context.Background(), 3, func(context.Context, int) ([]byte, error) { return nil, nil })
		if err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Error(err)
		}
		_, err = c.LoadMany(context.Background(), []int{4, 5}, func(context.Context, []int) (map[int][]byte, error) {
			return map[int][]byte{4: {1}, 5: nil}, nil
		})
		if err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Error(err)
		}
		c.Set(3, []byte{2})
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("locked")
	}
	require.EqualValues(t, 6, c.Stats().Weight)
}

// While the second tier is away, each caller's value comes of a loader that began after it had come, and of nobody's
// who has gone.
func TestLoaderOfWhoHasGoneIsNotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := newMemory()
		away.cutOff(true)
		l1 := newCache(t, cache.Options[string, string]{})
		tier, err := cache.NewTiered(l1, away, cache.TieredOptions[string, string]{})
		require.NoError(t, err)
		defer tier.Close()
		var wg sync.WaitGroup
		load := func(name string, first chan struct{}) {
			wg.Go(func() {
				here := true
				v, err := tier.Load(t.Context(), "k", func(context.Context, string) (string, error) {
					if !here {
						t.Error("the loader of one who has gone was called: ", name)
					}
					if first != nil {
						<-first
					}
					return name, nil
				})
				here = false
				if err != nil || v != name {
					t.Error(v, err)
				}
			})
			synctest.Wait()
		}
		gate := make(chan struct{})
		load("a", gate)
		load("b", nil)
		close(gate)
		wg.Wait()
	})
}

// scripted is a Remote of functions; what is not given does nothing.
type scripted struct {
	fetch   func(key string) (cache.Fetched, error)
	release func(key, lease string)
}

func (s *scripted) Fetch(_ context.Context, key string) (cache.Fetched, error) { return s.fetch(key) }
func (s *scripted) Release(_ context.Context, key, lease string) error {
	s.release(key, lease)
	return nil
}
func (s *scripted) Fill(context.Context, string, string, []byte, time.Duration) (bool, error) {
	return false, nil
}
func (s *scripted) Set(context.Context, string, []byte, time.Duration) error { return nil }
func (s *scripted) Delete(context.Context, string) error                     { return nil }
func (s *scripted) Watch(func(string), func()) func()                        { return func() {} }
func (s *scripted) Trusted() bool                                            { return true }

// Many keys that a dead process holds the leases of cost one WaitFor, and one load.
func TestLoadManyWaitsForAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l1 := newCache(t, cache.Options[int, int]{})
		held := &scripted{fetch: func(string) (cache.Fetched, error) { return cache.Fetched{}, nil }}
		tier, err := cache.NewTiered(l1, held, cache.TieredOptions[int, int]{})
		require.NoError(t, err)
		defer tier.Close()
		keys, want := []int{}, map[int]int{}
		for i := range 100 {
			keys, want[i] = append(keys, i), i
		}
		start, calls := time.Now(), 0
		got, err := tier.LoadMany(t.Context(), keys, func(_ context.Context, ks []int) (map[int]int, error) {
			calls++
			require.Len(t, ks, 100)
			return want, nil
		})
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, 1, calls)
		require.LessOrEqual(t, time.Since(start), 3*time.Second)
	})
}

// Of two writes that overlap, the one that the store has is the one that the cache has.
func TestThroughKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		row, gate := 0, make(chan struct{})
		c := newCache(t, cache.Options[string, int]{})
		th := cache.NewThrough(c, cache.Funcs[string, int]{
			GetFunc: func(context.Context, string) (int, error) { mu.Lock(); defer mu.Unlock(); return row, nil },
			SetFunc: func(_ context.Context, _ string, v int) error {
				mu.Lock()
				row = v
				mu.Unlock()
				if v == 1 {
					<-gate // the answer takes its time
				}
				return nil
			},
		}, false)
		var wg sync.WaitGroup
		for v := 1; v <= 2; v++ {
			wg.Go(func() {
				if err := th.Set(t.Context(), "k", v); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, th.Set(ctx, "another", 0), "other keys do not wait")
		close(gate)
		wg.Wait()
		v, err := th.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, row, v)

		row, gate = 0, make(chan struct{})
		wg.Go(func() { _ = th.Set(t.Context(), "k", 1) })
		synctest.Wait()
		require.ErrorIs(t, th.Set(ctx, "k", 3), context.DeadlineExceeded)
		close(gate)
		wg.Wait()
		v, err = th.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.Equal(t, 1, row)
	})
}

// leasing is memory that gives each lease once, and can refuse to be filled.
type leasing struct {
	*memory
	held   map[string]bool
	unfill bool
}

func newLeasing() *leasing { return &leasing{memory: newMemory(), held: map[string]bool{}} }

func (l *leasing) Fetch(ctx context.Context, key string) (cache.Fetched, error) {
	got, err := l.memory.Fetch(ctx, key)
	_ = l.do(func() {
		if got.Lease != "" && l.held[key] {
			got.Lease = ""
		} else if got.Lease != "" {
			l.held[key] = true
		}
	})
	return got, err
}

func (l *leasing) Fill(ctx context.Context, key, lease string, value []byte, ttl time.Duration) (bool, error) {
	if l.unfill {
		return false, errCut
	}
	_ = l.Release(ctx, key, lease)
	return l.memory.Fill(ctx, key, lease, value, ttl)
}

func (l *leasing) Release(_ context.Context, key, _ string) error {
	return l.do(func() { delete(l.held, key) })
}

func (l *leasing) Delete(ctx context.Context, key string) error {
	_ = l.Release(ctx, key, "")
	return l.memory.Delete(ctx, key)
}

// No lease stays with a server because the ring could not give it back, or forgot to.
func TestRingGivesLeasesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, server, gutter := t.Context(), newLeasing(), newLeasing()
		r, err := cache.NewRing(cache.RingOptions{Servers: map[string]cache.Remote{"a": server}, Gutter: gutter})
		require.NoError(t, err)
		defer r.Close()
		time.Sleep(time.Second) // it was seen to be well
		free := func(key string) {
			got, err := server.Fetch(ctx, key)
			require.NoError(t, err)
			require.NotEmpty(t, got.Lease, "another process gets the lease")
		}

		// The server is out when the loader gives up.
		got, err := r.Fetch(ctx, "k")
		require.NoError(t, err)
		require.NotEmpty(t, got.Lease)
		server.cutOff(true)
		time.Sleep(time.Second)
		require.EqualValues(t, 1, r.Stats().Out)
		require.NoError(t, r.Release(ctx, "k", got.Lease))
		require.NoError(t, gutter.Set(ctx, "warm", []byte("v"), time.Minute))
		server.cutOff(false)
		for r.Stats().Out > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		free("k")

		// What the gutter has cannot be stored.
		server.unfill = true
		got, err = r.Fetch(ctx, "warm")
		require.NoError(t, err)
		require.Zero(t, got)
		server.unfill = false
		free("warm")
	})

	// One of many cannot be fetched.
	released := map[string]bool{}
	r, err := cache.NewRing(cache.RingOptions{Servers: map[string]cache.Remote{"a": &scripted{
		fetch: func(key string) (cache.Fetched, error) {
			if key == "bad" {
				return cache.Fetched{}, errCut
			}
			return cache.Fetched{Lease: "lease of " + key}, nil
		},
		release: func(key, lease string) { released[key] = lease == "lease of "+key },
	}}})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.FetchMany(t.Context(), []string{"x", "y", "bad", "z"})
	require.ErrorIs(t, err, errCut)
	require.Equal(t, map[string]bool{"x": true, "y": true}, released)
}

// "Not found" is as of a position too: neither a change nor a caller that knows better gets it from the cache.
func TestFreshKnowsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := cache.NewFresh[string, string](
			cache.Options[string, string]{TTL: time.Minute, NegativeTTL: time.Minute, StaleFor: time.Hour},
			func(a, b int) int {
				return a - b
			})
		require.NoError(t, err)
		defer c.Close()
		loads := 0
		load := func(key string, least, at int, v string) string {
			got, err := c.Load(t.Context(), key, least, func(context.Context, string, int) (string, int, error) {
				loads++
				if v == "" {
					return "", at, cache.ErrNotFound
				}
				return v, at, nil
			})
			if errors.Is(err, cache.ErrNotFound) {
				return "missing"
			}
			require.NoError(t, err)
			return got
		}
		require.Equal(t, "missing", load("k", 0, 3, ""))
		require.Equal(t, "missing", load("k", 3, 9, "not asked for"))
		require.Equal(t, 1, loads)
		require.Equal(t, "new", load("k", 5, 5, "new"), "the caller has written it at 5")
		require.Equal(t, 2, loads)

		require.Equal(t, "missing", load("l", 0, 3, ""))
		c.Changed("l", 7)
		require.Equal(t, "missing", load("l", 0, 6, ""), "a replica that lags")
		require.Equal(t, "new", load("l", 0, 7, "new"))

		c.Set("m", "old", 1)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "new", load("m", 5, 5, "new"), "what is stale is too old for this caller")
	})
}

// "Not found" with tags is invalid when one of them has changed.
func TestTagsOfWhatIsMissing(t *testing.T) {
	c, err := cache.NewTagged[string, string](cache.Options[string, string]{NegativeTTL: time.Minute})
	require.NoError(t, err)
	defer c.Close()
	rows, loads := map[string]string{}, 0
	load := func() string {
		v, err := c.Load(t.Context(), "page", func(context.Context, string) (string, []string, error) {
			loads++
			if v, ok := rows["page"]; ok {
				return v, []string{"shop"}, nil
			}
			return "", []string{"shop"}, cache.ErrNotFound
		})
		return fmt.Sprint(v, " ", errors.Is(err, cache.ErrNotFound))
	}
	for range 3 {
		require.Equal(t, " true", load())
	}
	require.Equal(t, 1, loads)
	rows["page"] = "hats"
	c.DeleteTag("other")
	require.Equal(t, " true", load())
	c.DeleteTag("shop")
	require.Equal(t, "hats false", load())
}

// A store that ends the goroutine it is called in, as FailNow of a test does, has failed once: nothing hangs, and the
// write is tried again.
func TestBackSurvivesGoexit(t *testing.T) {
	c := newCache(t, cache.Options[string, int]{})
	var mu sync.Mutex
	calls, row := 0, 0
	b, err := cache.NewBack(c, cache.Funcs[string, int]{SetFunc: func(_ context.Context, _ string, v int) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls < 4 {
			runtime.Goexit()
		}
		row = v
		return nil
	}}, cache.BackOptions{Workers: 1, RetryBase: time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, b.Set(t.Context(), "k", 1))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, b.Flush(ctx))
	require.NoError(t, b.Close(ctx))
	require.Equal(t, 1, row)
}
