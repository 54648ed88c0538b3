package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

// both runs a test against the stand-in and against the real server.
func both(t *testing.T, f func(t *testing.T, addr string)) {
	t.Run("miniredis", func(t *testing.T) { f(t, miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) { f(t, testserver.Redis(t).Addr()) })
}

type node struct {
	*cache.Tiered[int, int]
	l1     *cache.Cache[int, int]
	remote *rediscache.Remote
}

func newNode(t *testing.T, addr string, o rediscache.Options) *node {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second})
	r, err := rediscache.New(c, o)
	require.NoError(t, err)
	l1, err := cache.New(cache.Options[int, int]{TTL: time.Minute})
	require.NoError(t, err)
	tr, err := cache.NewTiered(l1, r, cache.TieredOptions[int, int]{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, tr.Close())
		require.NoError(t, r.Close())
		require.NoError(t, l1.Close())
		require.NoError(t, c.Close())
	})
	n := &node{tr, l1, r}
	require.Eventually(t, r.Trusted, 30*time.Second, time.Millisecond)
	return n
}

func TestTwoTiers(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		o := rediscache.Options{Confirm: time.Minute}
		a, b := newNode(t, addr, o), newNode(t, addr, o)
		var loads, source atomic.Int64
		source.Store(1)
		load := func(context.Context, int) (int, error) { loads.Add(1); return int(source.Load()), nil }
		get := func(n *node, want int) {
			v, err := n.Load(t.Context(), 7, load)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
		get(a, 1)
		get(a, 1)
		get(b, 1)
		get(b, 1)
		require.EqualValues(t, 1, loads.Load(), "once for all processes")
		require.EqualValues(t, 1, a.Stats().L1Hits)
		require.EqualValues(t, 1, b.Stats().L2Hits)
		require.EqualValues(t, 1, b.Stats().L1Hits)
		source.Store(2)
		start := time.Now()
		require.NoError(t, a.Drop(t.Context(), 7))
		require.Less(t, time.Since(start), 30*time.Second, "acknowledged by both, not waited out")
		get(b, 2)
		get(a, 2)
		require.NoError(t, b.Put(t.Context(), 7, 3))
		get(a, 3)
		get(b, 3)
		require.EqualValues(t, 2, loads.Load())
		_, err := a.Load(t.Context(), 8, func(context.Context, int) (int, error) { return 0, cache.ErrNotFound })
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.NoError(t, a.Put(t.Context(), 8, 5))
		v, err := a.Load(t.Context(), 8, load)
		require.NoError(t, err)
		require.Equal(t, 5, v)
	})
}

func TestOneLoadAcrossProcesses(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		var nodes []*node
		for range 3 {
			nodes = append(nodes, newNode(t, addr, rediscache.Options{}))
		}
		var loads atomic.Int64
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				for k := range 20 {
					v, err := nodes[i%3].Load(t.Context(), k, func(context.Context, int) (int, error) {
						loads.Add(1)
						time.Sleep(5 * time.Millisecond)
						return k, nil
					})
					if err != nil || v != k {
						t.Error(v, err)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 20, loads.Load())
	})
}

func TestLoadMany(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		a, b := newNode(t, addr, rediscache.Options{}), newNode(t, addr, rediscache.Options{})
		var asked [][]int
		load := func(_ context.Context, keys []int) (map[int]int, error) {
			slices.Sort(keys)
			asked = append(asked, keys)
			m := map[int]int{}
			for _, k := range keys {
				if k != 13 {
					m[k] = k * 10
				}
			}
			return m, nil
		}
		keys, want := []int{}, map[int]int{}
		for k := range 100 {
			if keys = append(keys, k); k != 13 {
				want[k] = k * 10
			}
		}
		got, err := a.LoadMany(t.Context(), keys, load)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, [][]int{keys}, asked, "one call of the loader")
		got, err = b.LoadMany(t.Context(), keys, load)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, [][]int{keys, {13}}, asked, "the others come from the shared tier")
		require.EqualValues(t, 99, b.Stats().L2Hits)
		require.NoError(t, a.Drop(t.Context(), 5))
		require.NoError(t, a.Put(t.Context(), 6, 66))
		want[6] = 66
		got, err = b.LoadMany(t.Context(), keys, load)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, []int{5, 13}, asked[2])
		down := errors.New("down")
		_, err = a.LoadMany(t.Context(), []int{1, 200}, func(context.Context, []int) (map[int]int, error) {
			return nil, down
		})
		require.ErrorIs(t, err, down)
		v, err := b.Load(t.Context(), 200, func(context.Context, int) (int, error) { return 7, nil })
		require.NoError(t, err, "the lease was given back")
		require.Equal(t, 7, v)
		require.Zero(t, b.Stats().LeaseWaits)
	})
}

// A process that reads the source, stalls, and fills after somebody else has changed it, is refused.
func TestFillIsFenced(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		a, b := newNode(t, addr, rediscache.Options{}), newNode(t, addr, rediscache.Options{})
		var source atomic.Int64
		source.Store(1)
		read, proceed := make(chan struct{}), make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = a.Load(t.Context(), 1, func(context.Context, int) (int, error) {
				v := source.Load()
				close(read)
				<-proceed
				return int(v), nil
			})
		}()
		<-read
		source.Store(2)
		require.NoError(t, b.Drop(t.Context(), 1))
		close(proceed)
		<-done
		for _, n := range []*node{a, b} {
			v, err := n.Load(t.Context(), 1, func(context.Context, int) (int, error) { return int(source.Load()), nil })
			require.NoError(t, err)
			require.Equal(t, 2, v)
		}
		require.EqualValues(t, 1, a.Stats().Fenced)
	})
}

// A lease whose holder has died does not block the key for longer than the lease.
func TestDeadHolder(t *testing.T) {
	addr := testserver.Redis(t).Addr() // miniredis has a clock that stands still
	a := newNode(t, addr, rediscache.Options{Lease: 200 * time.Millisecond})
	got, err := a.remote.Fetch(t.Context(), "5") // and never fills
	require.NoError(t, err)
	require.NotEmpty(t, got.Lease)
	b := newNode(t, addr, rediscache.Options{Lease: 200 * time.Millisecond})
	start := time.Now()
	v, err := b.Load(t.Context(), 5, func(context.Context, int) (int, error) { return 5, nil })
	require.NoError(t, err)
	require.Equal(t, 5, v)
	require.Less(t, time.Since(start), 20*time.Second)
	ok, err := a.remote.Fill(t.Context(), "5", got.Lease, []byte("4"), time.Minute)
	require.NoError(t, err)
	require.False(t, ok, "too late")
}

// history checks, from outside, the one promise: a read that begins after a change was acknowledged does not return an
// older value.
type history struct {
	source [8]atomic.Int64 // the system of record
	acked  [8]atomic.Int64 // newest version whose invalidation was acknowledged

	changes atomic.Int64 // acknowledged ones of all keys
}

// until waits for n acknowledged changes; the deadline is for a machine that does nothing at all.
func (h *history) until(n int64) {
	for end := time.Now().Add(30 * time.Second); h.changes.Load() < n &&
		time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
}

// write raises the version of a key and returns whether the caches have acknowledged.
func (h *history) write(k int, drop func(ctx context.Context, k int) error) error {
	v := h.source[k].Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := drop(ctx, k); err != nil {
		return err
	}
	for o := h.acked[k].Load(); o < v && !h.acked[k].CompareAndSwap(o, v); o = h.acked[k].Load() {
	}
	return nil
}

func (h *history) read(k int, n *node) error {
	floor := h.acked[k].Load()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := n.Load(ctx, k, func(context.Context, int) (int, error) {
		v := h.source[k].Load()
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		return int(v), nil
	})
	if err == nil && int64(v) < floor {
		return fmt.Errorf("key %d: read version %d after %d was acknowledged", k, v, floor)
	}
	return err
}

// run reads and writes from all nodes while disturb does its worst; it returns the first violation.
func (h *history) run(nodes []*node, drop func(n *node) func(context.Context, int) error,
	disturb func()) (violation error) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, n := range nodes {
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := h.read(rand.IntN(8), n); err != nil {
						mu.Lock()
						if violation == nil {
							violation = err
						}
						mu.Unlock()
					}
				}
			})
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				if h.write(rand.IntN(8), drop(n)) == nil {
					h.changes.Add(1)
				}
			}
		})
	}
	disturb()
	close(stop)
	wg.Wait()
	return violation
}

func TestNoStaleReadAfterAcknowledgedDelete(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		nodes := []*node{newNode(t, addr, rediscache.Options{}), newNode(t, addr, rediscache.Options{}),
			newNode(t, addr, rediscache.Options{})}
		var h history
		err := h.run(nodes, func(n *node) func(context.Context, int) error { return n.Drop }, func() { h.until(300) })
		require.NoError(t, err)
		require.GreaterOrEqual(t, h.changes.Load(), int64(300))
	})
}

// The same check fails for a cache that serves after a delete: it is able to fail.
func TestStaleReadWouldBeNoticed(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	nodes := []*node{newNode(t, addr, rediscache.Options{}), newNode(t, addr, rediscache.Options{})}
	var h history
	err := h.run(nodes, func(n *node) func(context.Context, int) error {
		return func(_ context.Context, k int) error { n.l1.Delete(k); return nil } // only here, not at the others
	}, func() { h.until(100) })
	require.Error(t, err)
}

// Redis is frozen, killed and started again, without its data, while everybody works.
func TestServerFails(t *testing.T) {
	s := testserver.Redis(t)
	o := rediscache.Options{Confirm: 200 * time.Millisecond, Timeout: 150 * time.Millisecond}
	nodes := []*node{newNode(t, s.Addr(), o), newNode(t, s.Addr(), o)}
	var h history
	var before, after int64
	err := h.run(nodes, func(n *node) func(context.Context, int) error { return n.Drop }, func() {
		time.Sleep(200 * time.Millisecond)
		s.Freeze()
		time.Sleep(500 * time.Millisecond)
		s.Thaw()
		time.Sleep(300 * time.Millisecond)
		s.Kill()
		time.Sleep(300 * time.Millisecond)
		require.NoError(t, s.Restart(t.Context()))
		before = nodes[0].Stats().L1Hits
		for end := time.Now().Add(30 * time.Second); after <= before &&
			time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			after = nodes[0].Stats().L1Hits
		}
		time.Sleep(time.Second) // everybody goes on
	})
	require.NoError(t, err)
	require.Positive(t, h.changes.Load())
	require.Greater(t, after, before, "the first tier is trusted again after recovery")
	require.Positive(t, nodes[0].Stats().Untrusted)
}

// A process that has died is waited for, but no longer than Confirm.
func TestDeadProcessIsWaitedOut(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	o := rediscache.Options{Confirm: 300 * time.Millisecond}
	a := newNode(t, addr, o)
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer c.Close()
	end := time.Now().Add(300 * time.Millisecond)
	require.NoError(t, c.ZAdd(t.Context(), "cache:nodes",
		redis.Z{Score: float64(end.UnixMilli()), Member: "dead"}).Err())
	require.NoError(t, a.Drop(t.Context(), 1))
	require.WithinRange(t, time.Now(), end.Add(-5*time.Millisecond), end.Add(20*time.Second))
}

func TestOptionsNameTheField(t *testing.T) {
	c := redis.NewClient(&redis.Options{})
	defer c.Close()
	for field, o := range map[string]rediscache.Options{"Lease": {Lease: -1}, "Confirm": {Confirm: 1},
		"Timeout": {Timeout: -1}} {
		_, err := rediscache.New(c, o)
		require.ErrorContains(t, err, field)
	}
}

// More keys than one script takes, in one call: what is there, what is leased to this call, and what another holds the
// lease of.
func TestFetchManyInParts(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		a, b := newNode(t, addr, rediscache.Options{}), newNode(t, addr, rediscache.Options{})
		var keys []string
		for k := range 1234 {
			keys = append(keys, fmt.Sprint(k))
			if k%3 == 0 {
				got, err := a.remote.Fetch(t.Context(), keys[k])
				require.NoError(t, err)
				if k%2 == 0 {
					_, err = a.remote.Fill(t.Context(), keys[k], got.Lease, []byte(keys[k]), time.Minute)
					require.NoError(t, err)
				}
			}
		}
		got, err := b.remote.FetchMany(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, got, len(keys))
		for k, f := range got {
			switch {
			case k%6 == 0:
				require.Equal(t, keys[k], string(f.Value))
				require.Positive(t, f.TTL)
			case k%3 == 0:
				require.Equal(t, cache.Fetched{}, f)
			default:
				require.Nil(t, f.Value)
				ok, err := b.remote.Fill(t.Context(), keys[k], f.Lease, []byte("x"), time.Minute)
				require.NoError(t, err)
				require.True(t, ok, "each key has its own lease")
			}
		}
	})
}

// In a cluster, the value and the lease of every key are in one slot, whatever characters the key has.
func TestClusterTakesEveryKey(t *testing.T) {
	server := testserver.Redis(t, testserver.RedisOptions{Cluster: true})
	admin := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer admin.Close()
	require.NoError(t, admin.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool {
		info, err := admin.ClusterInfo(t.Context()).Result()
		return err == nil && strings.HasPrefix(info, "cluster_state:ok")
	}, patience, 10*time.Millisecond)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, ContextTimeoutEnabled: true})
	defer c.Close()
	r, err := rediscache.New(c, rediscache.Options{Timeout: patience})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	keys := []string{"", "}", "}x", "{", "{}", "{}x", "a{b}c", "a}b", "%", "%}x", "plain", "\x00",
		strings.Repeat("k", 100_000)}
	for _, k := range keys {
		got, err := r.Fetch(t.Context(), k)
		require.NoError(t, err, k)
		require.NotEmpty(t, got.Lease, k)
		ok, err := r.Fill(t.Context(), k, got.Lease, []byte("v"+k), time.Hour)
		require.NoError(t, err, k)
		require.True(t, ok, k)
	}
	all, err := r.FetchMany(t.Context(), keys)
	require.NoError(t, err)
	for i, k := range keys {
		require.Equal(t, "v"+k, string(all[i].Value))
		require.NoError(t, r.Delete(t.Context(), k))
	}
}
