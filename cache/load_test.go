package cache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

func TestOneLoadPerKey(t *testing.T) {
	c := newCache(t, cache.Options[int, int]{})
	var loads atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for k := range 500 {
				v, err := c.Load(t.Context(), k, func(_ context.Context, k int) (int, error) {
					loads.Add(1)
					runtime.Gosched()
					return k * 2, nil
				})
				if err != nil || v != k*2 {
					t.Error(v, err)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 500, loads.Load())
	require.EqualValues(t, 500, c.Stats().Loads)
}

// A load that began before a Set, Delete or Clear does not bring the old value back, and who asks afterwards does not
// get it either.
func TestLoadIsFenced(t *testing.T) {
	for name, write := range map[string]func(*cache.Cache[string, int]){
		"set": func(c *cache.Cache[string, int]) {
			c.Set("k", 2)
		}, "delete": func(c *cache.Cache[string, int]) { c.Delete("k") },
		"clear": func(c *cache.Cache[string, int]) { c.Clear() },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCache(t, cache.Options[string, int]{})
			var source atomic.Int64
			source.Store(1)
			load := func(context.Context, string) (int, error) {
				v := int(source.Load())
				time.Sleep(time.Second)
				return v, nil
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				v, err := c.Load(t.Context(), "k", load)
				require.NoError(t, err)
				require.Equal(t, 1, v)
			})
			time.Sleep(time.Millisecond)
			source.Store(2)
			write(c)
			wg.Go(func() {
				v, err := c.Load(t.Context(), "k", load)
				require.NoError(t, err)
				require.Equal(t, 2, v, name)
			})
			wg.Wait()
			v, ok := c.Get("k")
			require.True(t, ok, name)
			require.Equal(t, 2, v)
			require.EqualValues(t, 1, c.Stats().Fenced)
		})
	}
}

func TestWaitersHaveTheirOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{LoadTimeout: time.Minute})
		type key struct{}
		load := func(ctx context.Context, _ string) (int, error) {
			require.Equal(t, "value", ctx.Value(key{}))
			time.Sleep(10 * time.Second)
			return 1, ctx.Err()
		}
		owner, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.Load(owner, "k", load)
			require.ErrorIs(t, err, context.Canceled)
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			v, err := c.Load(t.Context(), "k", load)
			require.NoError(t, err)
			require.Equal(t, 1, v)
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.Load(ctx, "k", load)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		time.Sleep(time.Millisecond)
		cancel()
		wg.Wait()
		_, err := c.Load(t.Context(), "hang", func(ctx context.Context, _ string) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestPanicAndGoexit(t *testing.T) {
	c := newCache(t, cache.Options[string, int]{})
	_, err := c.Load(t.Context(), "k", func(context.Context, string) (int, error) { panic("boom") })
	require.ErrorContains(t, err, "boom")
	_, err = c.Load(t.Context(), "k", func(context.Context, string) (int, error) { runtime.Goexit(); return 0, nil })
	require.Error(t, err)
	_, err = c.LoadMany(t.Context(), []string{"k"}, func(context.Context, []string) (map[string]int, error) {
		panic("boom")
	})
	require.ErrorContains(t, err, "boom")
	_, err = c.LoadMany(t.Context(), []string{"k"}, func(context.Context, []string) (map[string]int, error) {
		runtime.Goexit()
		return nil, nil
	})
	require.Error(t, err)
	want := errors.New("down")
	_, err = c.Load(t.Context(), "k", func(context.Context, string) (int, error) { return 0, want })
	require.ErrorIs(t, err, want)
	v, err := c.Load(t.Context(), "k", func(context.Context, string) (int, error) { return 7, nil })
	require.NoError(t, err)
	require.Equal(t, 7, v)
}

func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{TTL: 10 * time.Second, StaleFor: 10 * time.Second})
		n := 0
		load := func(context.Context, string) (int, error) {
			n++
			time.Sleep(time.Second)
			return n, nil
		}
		get := func() int {
			v, err := c.Load(t.Context(), "k", load)
			require.NoError(t, err)
			return v
		}
		require.Equal(t, 1, get())
		time.Sleep(11 * time.Second)
		_, ok := c.Get("k")
		require.False(t, ok, "Get never serves it")
		start := time.Now()
		require.Equal(t, 1, get())
		require.Equal(t, 1, get())
		require.Zero(t, time.Since(start), "nobody waits")
		time.Sleep(2 * time.Second)
		require.Equal(t, 2, get())
		require.Equal(t, 2, n)
		time.Sleep(30 * time.Second)
		require.Equal(t, 3, get(), "too old: waits")
		require.EqualValues(t, 2, c.Stats().StaleServed)
		require.NoError(t, c.Close())
	})
}

func TestStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{TTL: 10 * time.Second, StaleIfError: time.Minute})
		var fail error
		load := func(context.Context, string) (int, error) { return 1, fail }
		_, err := c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		fail = errors.New("down")
		time.Sleep(69 * time.Second)
		v, err := c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		time.Sleep(time.Second)
		_, err = c.Load(t.Context(), "k", load)
		require.ErrorIs(t, err, fail)
		fail = nil
		_, err = c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		fail = cache.ErrNotFound
		time.Sleep(11 * time.Second)
		_, err = c.Load(t.Context(), "k", load)
		require.ErrorIs(t, err, cache.ErrNotFound, "deleted at the source is no failure")
		require.NoError(t, c.Close())
	})
}

func TestNegativeCaching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{NegativeTTL: 5 * time.Second})
		n := 0
		load := func(context.Context, string) (int, error) { n++; return 9, cache.ErrNotFound }
		for range 3 {
			v, err := c.Load(t.Context(), "k", load)
			require.ErrorIs(t, err, cache.ErrNotFound)
			require.Zero(t, v)
		}
		require.Equal(t, 1, n)
		_, ok := c.Get("k")
		require.False(t, ok)
		time.Sleep(5 * time.Second)
		_, _ = c.Load(t.Context(), "k", load)
		require.Equal(t, 2, n)
		c.Set("k", 3)
		v, err := c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		require.Equal(t, 3, v)
		require.NoError(t, c.Close())
	})
}

// XFetch: an entry that many ask for is loaded before it ends, and nobody ever waits.
func TestEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{TTL: 10 * time.Second, EarlyRefresh: 1})
		n := 0
		load := func(context.Context, string) (int, error) { n++; time.Sleep(200 * time.Millisecond); return n, nil }
		_, err := c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		for range 6000 {
			start := time.Now()
			_, err := c.Load(t.Context(), "k", load)
			require.NoError(t, err)
			require.Zero(t, time.Since(start))
			time.Sleep(10 * time.Millisecond)
		}
		require.InDelta(t, 7, n, 1)
		require.NoError(t, c.Close())
	})
}

// An entry in use is refreshed before it ends, once at a time, and nobody waits; one that nobody asks for ends.
func TestRefreshAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{TTL: 10 * time.Second, RefreshAhead: 2 * time.Second})
		n := 0
		load := func(context.Context, string) (int, error) { n++; time.Sleep(500 * time.Millisecond); return n, nil }
		_, err := c.Load(t.Context(), "k", load)
		require.NoError(t, err)
		for i := range 300 {
			time.Sleep(100 * time.Millisecond)
			start := time.Now()
			v, err := c.Load(t.Context(), "k", load)
			require.NoError(t, err)
			require.Zero(t, time.Since(start))
			if i < 79 {
				require.Equal(t, 1, v)
			}
		}
		require.Equal(t, 4, n, "every 8.5 s or so")
		_, ok := c.Get("k")
		require.True(t, ok)
		time.Sleep(10 * time.Second)
		_, ok = c.Get("k")
		require.False(t, ok)
		require.NoError(t, c.Close())
	})
}

func TestLoadMany(t *testing.T) {
	c := newCache(t, cache.Options[int, string]{NegativeTTL: time.Hour})
	var asked [][]int
	load := func(_ context.Context, keys []int) (map[int]string, error) {
		slices.Sort(keys)
		asked = append(asked, keys)
		m := map[int]string{}
		for _, k := range keys {
			if k%2 == 0 {
				m[k] = fmt.Sprint(k)
			}
		}
		return m, nil
	}
	c.Set(100, "cached")
	got, err := c.LoadMany(t.Context(), []int{1, 2, 3, 4, 2, 100}, load)
	require.NoError(t, err)
	require.Equal(t, map[int]string{2: "2", 4: "4", 100: "cached"}, got)
	got, err = c.LoadMany(t.Context(), []int{1, 2, 5, 6}, load)
	require.NoError(t, err)
	require.Equal(t, map[int]string{2: "2", 6: "6"}, got)
	require.Equal(t, [][]int{{1, 2, 3, 4}, {5, 6}}, asked)
	down := errors.New("down")
	got, err = c.LoadMany(t.Context(), []int{2, 8}, func(context.Context, []int) (map[int]string, error) {
		return nil, down
	})
	require.ErrorIs(t, err, down)
	require.Equal(t, map[int]string{2: "2"}, got)
}

// table is a Store that can fail.
type table struct {
	mu   sync.Mutex
	rows map[string]int
	fail error
	sets []string
}

func (s *table) Get(_ context.Context, k string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.rows[k]; ok {
		return v, s.fail
	}
	return 0, cache.ErrNotFound
}

func (s *table) Set(_ context.Context, k string, v int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.rows[k] = v
	s.sets = append(s.sets, fmt.Sprint(k, v))
	return nil
}

func (s *table) Delete(_ context.Context, k string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rows, k)
	return s.fail
}

func (s *table) breakIt(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *table) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail
}

func (s *table) row(k string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[k]
}

func TestReadAndWriteThrough(t *testing.T) {
	for _, around := range []bool{false, true} {
		c := newCache(t, cache.Options[string, int]{})
		s := &table{rows: map[string]int{"a": 1}}
		w := cache.NewThrough(c, s, around)
		v, err := w.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.NoError(t, w.Set(t.Context(), "a", 2))
		_, cached := c.Get("a")
		require.Equal(t, !around, cached)
		v, err = w.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, 2, v)
		s.fail = errors.New("down")
		require.ErrorIs(t, w.Set(t.Context(), "a", 3), s.fail)
		_, cached = c.Get("a")
		require.False(t, cached, "the outcome is unknown: ask the store")
		s.fail = nil
		require.NoError(t, w.Delete(t.Context(), "a"))
		_, err = w.Get(t.Context(), "a")
		require.ErrorIs(t, err, cache.ErrNotFound)
	}
}

func TestWriteBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newCache(t, cache.Options[string, int]{})
		s := &table{rows: map[string]int{"old": 9}}
		b, err := cache.NewBack(c, s, cache.BackOptions{Attempts: 3, MaxPending: 2})
		require.NoError(t, err)
		for i := range 100 {
			require.NoError(t, b.Set(ctx, "a", i))
		}
		v, err := b.Get(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 99, v)
		require.Zero(t, s.row("a"))
		time.Sleep(150 * time.Millisecond)
		require.Equal(t, 99, s.row("a"))
		require.Equal(t, []string{"a99"}, s.sets, "coalesced")
		v, err = b.Get(ctx, "old")
		require.NoError(t, err)
		require.Equal(t, 9, v)

		require.NoError(t, b.Delete(ctx, "old"))
		_, err = b.Get(ctx, "old")
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.Equal(t, 1, b.Pending())
		start := time.Now()
		require.NoError(t, b.Flush(ctx))
		require.Zero(t, time.Since(start), "Flush does not wait for the delay")
		require.Zero(t, s.row("old"))

		s.mu.Lock()
		s.fail = errors.New("down")
		s.mu.Unlock()
		require.NoError(t, b.Set(ctx, "x", 1))
		require.NoError(t, b.Set(ctx, "y", 2))
		full, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		require.ErrorIs(t, b.Set(full, "z", 3), context.DeadlineExceeded, "bounded")
		cancel()
		require.NoError(t, b.Flush(ctx))
		require.Len(t, b.Parked(), 2)
		require.Zero(t, b.Pending())
		c.Clear()
		v, err = b.Get(ctx, "x")
		require.NoError(t, err)
		require.Equal(t, 1, v, "a parked write is still read")
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		require.NoError(t, b.Set(ctx, "x", 5))
		b.Retry()
		require.NoError(t, b.Close(ctx))
		require.Equal(t, 5, s.row("x"))
		require.Equal(t, 2, s.row("y"))
		require.ErrorIs(t, b.Set(ctx, "x", 6), cache.ErrClosed)
	})
}
