package cache_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/internal/test/race"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var policies = []cache.Policy{cache.S3TK, cache.LRU, cache.LFU, cache.FIFO}

func newCache[K comparable, V any](t testing.TB, o cache.Options[K, V]) *cache.Cache[K, V] {
	c, err := cache.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestGetSetDelete(t *testing.T) {
	for _, p := range policies {
		c := newCache(t, cache.Options[string, int]{Policy: p})
		_, ok := c.Get("a")
		require.False(t, ok)
		c.Set("a", 1)
		c.Set("a", 2)
		v, ok := c.Get("a")
		require.True(t, ok)
		require.Equal(t, 2, v)
		require.True(t, c.Delete("a"))
		require.False(t, c.Delete("a"))
		_, ok = c.Get("a")
		require.False(t, ok)
		s := c.Stats()
		require.EqualValues(t, 1, s.Hits)
		require.EqualValues(t, 2, s.Misses)
		require.Zero(t, s.Entries)
	}
}

type point struct{ X, Y int }

// Every kind of key and value, among them those that are written in place.
func TestKeysAndValues(t *testing.T) {
	roundtrip(t, 7, "x")
	roundtrip(t, uint64(7), 9)
	roundtrip(t, "k", 9.5)
	roundtrip(t, point{1, 2}, &point{3, 4})
	roundtrip(t, int8(-1), []byte("abc"))
	roundtrip(t, any("k"), map[string]int{"a": 1})
	roundtrip(t, [2]string{"a", "b"}, struct{}{})
	roundtrip[any, error](t, 3.5, nil)
	roundtrip(t, uintptr(1), (*int)(nil))
}

func roundtrip[K comparable, V any](t *testing.T, k K, v V) {
	c := newCache(t, cache.Options[K, V]{})
	for range 2 {
		c.Set(k, v)
		got, ok := c.Get(k)
		require.True(t, ok)
		require.Equal(t, v, got)
	}
}

func TestBounded(t *testing.T) {
	for _, p := range policies {
		for _, max := range []int{1, 2, 7, 1000, 40_000} {
			c := newCache(t, cache.Options[int, int]{MaxEntries: max, Policy: p})
			for i := range 3 * max {
				c.Set(i, i)
				if i%97 == 0 {
					require.LessOrEqual(t, c.Len(), max)
				}
			}
			require.LessOrEqual(t, c.Len(), max)
			require.Greater(t, c.Len(), max*8/10)
			n := 0
			for k, v := range c.All() {
				require.Equal(t, k, v)
				n++
			}
			require.Equal(t, c.Len(), n)
		}
	}
}

func TestWeights(t *testing.T) {
	for _, p := range policies {
		c := newCache(t, cache.Options[int, string]{MaxWeight: 1000, Weigh: func(_ int, v string) int64 {
			return int64(len(v))
		}, Policy: p})
		for i := range 300 {
			c.Set(i, fmt.Sprintf("%0*d", i%40+1, i))
			require.LessOrEqual(t, c.Stats().Weight, int64(1000))
		}
		c.Set(1, string(make([]byte, 2000)))
		_, ok := c.Get(1)
		require.False(t, ok, "too heavy, and the old value is not served either")
		c.Set(2, "a")
		c.Set(2, "abc")
		v, _ := c.Get(2)
		require.Equal(t, "abc", v)
	}
}

// A cache that was full has its headroom again after a few writes, and stays within its bound throughout.
func TestHeadroom(t *testing.T) {
	for _, p := range policies {
		c := newCache(t, cache.Options[int, int]{MaxEntries: 1000, Headroom: 0.2, Policy: p})
		for i := range 1001 {
			c.Set(i, i)
		}
		require.LessOrEqual(t, c.Len(), 1000)
		require.Greater(t, c.Len(), 990, "not all at once")
		for i := range 100 { // three go for each that comes
			c.Set(2000+i, i)
		}
		low := c.Len()
		require.InDelta(t, 800, low, 50)
		for i := range 5000 {
			c.Set(3000+i, i)
			require.LessOrEqual(t, c.Len(), 1000)
		}
		st := c.Stats()
		require.EqualValues(t, 1001+100+5000-st.Entries, st.Evicted)
	}
}

func TestTTLIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[string, int]{TTL: time.Second})
		c.Set("a", 1)
		c.SetTTL("b", 1, 1)
		c.SetTTL("c", 1, math.MaxInt64)
		c.SetTTL("d", 1, time.Hour)
		c.SetTTL("d", 1, 0)
		_, ok := c.Get("d")
		require.False(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = c.Get("b")
		require.False(t, ok)
		time.Sleep(time.Second - 2)
		_, ok = c.Get("a")
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = c.Get("a")
		require.False(t, ok)
		time.Sleep(10 * time.Hour)
		_, ok = c.Get("c")
		require.True(t, ok)
		c.Set("a", 2)
		time.Sleep(900 * time.Millisecond)
		c.Set("a", 3)
		time.Sleep(900 * time.Millisecond)
		v, ok := c.Get("a")
		require.True(t, ok)
		require.Equal(t, 3, v)
		require.NoError(t, c.Close())
	})
}

func TestExpiredEntriesLeaveUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		causes := map[cache.Cause]int{}
		c := newCache(t, cache.Options[int, int]{MaxEntries: 50_000, OnRemove: func(_, _ int, why cache.Cause) {
			mu.Lock()
			defer mu.Unlock()
			causes[why]++
		}})
		for i := range 20_000 {
			c.SetTTL(i, i, time.Second)
		}
		c.Set(-1, 1)
		time.Sleep(4 * time.Second)
		require.Equal(t, 1, c.Len())
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, map[cache.Cause]int{cache.Expired: 20_000}, causes)
		require.NoError(t, c.Close())
	})
}

func TestJitterAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[int, int]{TTL: 100 * time.Second, Jitter: 0.5})
		for i := range 1000 {
			c.Set(i, i)
		}
		count := func() (n int) {
			for range c.All() {
				n++
			}
			return n
		}
		time.Sleep(49 * time.Second)
		require.Equal(t, 1000, count())
		time.Sleep(26 * time.Second)
		require.InDelta(t, 500, count(), 100)
		time.Sleep(25 * time.Second)
		require.Zero(t, count())
		require.NoError(t, c.Close())

		idle := newCache(t, cache.Options[string, int]{Idle: 10 * time.Second})
		idle.Set("read", 1)
		idle.Set("unread", 1)
		for range 5 {
			time.Sleep(9 * time.Second)
			_, ok := idle.Get("read")
			require.True(t, ok)
		}
		_, ok := idle.Get("unread")
		require.False(t, ok)
		require.NoError(t, idle.Close())
	})
}

func TestCausesAndClear(t *testing.T) {
	var got []string
	c := newCache(t, cache.Options[int, string]{MaxEntries: 2, Policy: cache.FIFO,
		OnRemove: func(k int, v string, why cache.Cause) {
			got = append(got, fmt.Sprint(k, v, " ", why))
		}})
	c.Set(1, "a")
	c.Set(1, "b")
	c.Set(2, "c")
	c.Set(3, "d")
	c.Delete(2)
	c.Clear()
	require.Equal(t, []string{"1a replaced", "1b evicted", "2c deleted", "3d deleted"}, got)
	require.Zero(t, c.Len())
	c.Set(4, "e")
	_, ok := c.Get(4)
	require.True(t, ok)
	st := c.Stats()
	require.EqualValues(t, 2, st.Deleted)
	require.EqualValues(t, 1, st.Evicted)
}

func TestOptionsNameTheField(t *testing.T) {
	for field, o := range map[string]cache.Options[int, int]{
		"MaxEntries": {MaxEntries: -1}, "MaxWeight": {MaxWeight: -1}, "Weigh": {MaxWeight: 5}, "TTL": {TTL: -1},
		"Jitter": {Jitter: 2}, "Idle": {Idle: -1},
		"StaleFor": {StaleFor: -1}, "StaleIfError": {StaleIfError: -1}, "NegativeTTL": {NegativeTTL: -1},
		"EarlyRefresh": {EarlyRefresh: math.NaN()},
		"LoadTimeout":  {LoadTimeout: -1}, "RefreshAhead": {TTL: 1, RefreshAhead: 1}, "Headroom": {Headroom: 0.6},
		"ClockError": {ClockError: 1}, "Policy": {Policy: 9},
	} {
		_, err := cache.New(o)
		require.ErrorContains(t, err, field)
	}
}

func TestNoGoroutineWithoutTTLAndNoAllocationOnAHit(t *testing.T) {
	before := runtime.NumGoroutine()
	c := newCache(t, cache.Options[string, int]{})
	c.Set("key", 1)
	require.Equal(t, before, runtime.NumGoroutine())
	timed := newCache(t, cache.Options[string, [4]int]{TTL: time.Hour})
	timed.Set("key", [4]int{})
	if race.Enabled {
		return // counted in the build without the detector
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() { c.Get("key") }))
	if strconv.IntSize == 64 {
		require.Zero(t, testing.AllocsPerRun(1000, func() { c.Set("key", 2) }), "a word is written in place")
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() { timed.Get("key") }))
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = timed.Load(t.Context(), "key", nil) }))
}

// model is what a cache without bounds would hold.
type model map[int]struct {
	v   int
	end time.Time
}

// Whatever the options, a cache never returns anything but the newest value, and only before its deadline.
func TestAgainstModel(t *testing.T) {
	for _, p := range policies {
		t.Run(p.String(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				o := cache.Options[int, int]{Policy: p, MaxEntries: rapid.IntRange(1, 40).Draw(rt, "max"),
					TTL: time.Duration(rapid.IntRange(0, 3).Draw(rt, "ttl")) * time.Second}
				if rapid.Bool().Draw(rt, "idle") {
					o.Idle = time.Hour
				}
				if rapid.Bool().Draw(rt, "jitter") {
					o.Jitter = 0.5
				}
				if rapid.Bool().Draw(rt, "headroom") {
					o.Headroom = 0.25
				}
				if rapid.Bool().Draw(rt, "stale") {
					o.StaleFor, o.StaleIfError = time.Second, 2*time.Second
				}
				if rapid.Bool().Draw(rt, "early") {
					o.EarlyRefresh = 1
				}
				if o.TTL > time.Second && rapid.Bool().Draw(rt, "ahead") {
					o.RefreshAhead = time.Second
				}
				if rapid.Bool().Draw(rt, "listen") {
					o.OnRemove = func(int, int, cache.Cause) {}
				}
				if rapid.Bool().Draw(rt, "weigh") {
					o.MaxWeight, o.MaxEntries, o.Weigh = int64(o.MaxEntries), 0, func(k, _ int) int64 {
						return int64(k%3 + 1)
					}
				}
				type op struct{ kind, key, val int }
				ops := make([]op, rapid.IntRange(1, 200).Draw(rt, "ops"))
				for i := range ops {
					ops[i] = op{rapid.IntRange(0, 9).Draw(rt, "kind"), rapid.IntRange(0, 60).Draw(rt, "key"), i}
				}
				synctest.Test(t, func(t *testing.T) {
					c, err := cache.New(o)
					require.NoError(t, err)
					defer c.Close()
					m := model{}
					for _, x := range ops {
						switch x.kind {
						case 0:
							c.Delete(x.key)
							delete(m, x.key)
						case 1:
							time.Sleep(700 * time.Millisecond)
						case 2:
							c.SetTTL(x.key, x.val, 5*time.Second)
							e := m[x.key]
							e.v, e.end = x.val, time.Now().Add(5*time.Second)
							m[x.key] = e
						case 3, 4, 5:
							c.Set(x.key, x.val)
							e := m[x.key]
							e.v, e.end = x.val, time.Now().Add(1000*time.Hour)
							if o.TTL > 0 {
								e.end = time.Now().Add(o.TTL)
							}
							m[x.key] = e
						default:
							v, ok := c.Get(x.key)
							e, known := m[x.key]
							if ok && (!known || v != e.v || !time.Now().Before(e.end)) {
								t.Fatalf("Get(%d) = %d, want %v until %v, now %v", x.key, v, e.v, e.end, time.Now())
							}
							if !ok && known && time.Now().Before(e.end) && o.MaxEntries > 61 {
								t.Fatalf("Get(%d) lost %v", x.key, e.v)
							}
						}
						s := c.Stats()
						if o.MaxEntries > 0 {
							require.LessOrEqual(t, s.Entries, int64(o.MaxEntries))
						} else {
							require.LessOrEqual(t, s.Weight, o.MaxWeight)
						}
					}
				})
			})
		})
	}
}

// Readers see, for each key, values that only grow: no torn value, no old one after a new one. Run with -race.
func TestReadersNeverGoBack(t *testing.T) {
	check := func(t *testing.T, set func(k, v int), get func(k int) (int, bool), forget func(k int)) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for k := range 4 {
			wg.Go(func() {
				for v := 1; ; v++ {
					select {
					case <-stop:
						return
					default:
					}
					set(k, v)
					if got, ok := get(k); ok && got != v {
						t.Errorf("read %d after writing %d", got, v)
						return
					}
					if v%100 == 0 {
						forget(rand.IntN(1000) + 10)
					}
				}
			})
			wg.Go(func() {
				last := 0
				for {
					select {
					case <-stop:
						return
					default:
					}
					if v, ok := get(k); ok {
						if v < last {
							t.Errorf("read %d after %d", v, last)
							return
						}
						last = v
					}
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		close(stop)
		wg.Wait()
	}
	for _, p := range policies {
		ints := newCache(t, cache.Options[int, int]{Policy: p, TTL: time.Hour, MaxEntries: 100})
		check(t, ints.Set, ints.Get, func(k int) { ints.Set(k, k) })
		structs := newCache(t, cache.Options[int, point]{Policy: p, MaxEntries: 100})
		check(t, func(k, v int) { structs.Set(k, point{v, -v}) }, func(k int) (int, bool) {
			v, ok := structs.Get(k)
			if ok && v.X != -v.Y {
				t.Error("torn", v)
			}
			return v.X, ok
		}, func(k int) { structs.Set(k, point{}) })
	}
}

func TestClockErrorIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options[int, int]{TTL: time.Second, ClockError: 10 * time.Millisecond})
		for i := range 60 {
			c.Set(i, i)
			time.Sleep(time.Second - time.Nanosecond - time.Duration(i)*time.Microsecond)
			_, ok := c.Get(i)
			require.True(t, ok, "never early")
			time.Sleep(10*time.Millisecond + time.Duration(i)*time.Microsecond)
			_, ok = c.Get(i)
			require.False(t, ok)
		}
		require.NoError(t, c.Close())
		c.SetTTL(1, 1, time.Second)
		time.Sleep(time.Second)
		_, ok := c.Get(1)
		require.False(t, ok, "exact once closed")
	})
}

func BenchmarkHit(b *testing.B) {
	for name, o := range map[string]cache.Options[int, int]{"plain": {}, "ttl": {TTL: time.Hour},
		"ttl-clock-10ms": {TTL: time.Hour, ClockError: 10 * time.Millisecond}} {
		c := newCache(b, o)
		for i := range 1000 {
			c.Set(i, i)
		}
		b.Run(name+"/Get", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				c.Get(i % 1000)
			}
		})
		load := func(context.Context, int) (int, error) { return 0, nil }
		b.Run(name+"/Load", func(b *testing.B) {
			ctx := b.Context()
			for i := 0; b.Loop(); i++ {
				_, _ = c.Load(ctx, i%1000, load)
			}
		})
	}
}
