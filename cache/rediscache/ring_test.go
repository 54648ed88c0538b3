package rediscache_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

// ringNode is a process with a first tier over several servers and a gutter.
type ringNode struct {
	*node
	ring *cache.Ring
}

func connect(t *testing.T, addr string) *rediscache.Remote {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second})
	r, err := rediscache.New(c, rediscache.Options{Confirm: time.Second, Timeout: 3 * time.Second, Lease: patience})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.NoError(t, c.Close())
	})
	return r
}

func newRingNode(t *testing.T, o cache.RingOptions) *ringNode {
	ring, err := cache.NewRing(o)
	require.NoError(t, err)
	l1, err := cache.New(cache.Options[int, int]{TTL: time.Minute})
	require.NoError(t, err)
	tier, err := cache.NewTiered(l1, ring, cache.TieredOptions[int, int]{WaitFor: patience})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, tier.Close())
		require.NoError(t, ring.Close())
		require.NoError(t, l1.Close())
	})
	require.Eventually(t, ring.Trusted, patience, time.Millisecond)
	return &ringNode{&node{Tiered: tier, l1: l1}, ring}
}

// One of three servers is frozen, killed and started again, empty, under reads and changes of two processes: no read
// that begins after a change was acknowledged sees an older value, the gutter keeps the source from being asked again
// and again, and afterwards all is as before.
func TestRingServerFails(t *testing.T) {
	servers := map[string]*testserver.RedisServer{}
	for _, name := range []string{"a", "b", "c"} {
		servers[name] = testserver.Redis(t)
	}
	gutter := testserver.Redis(t)
	var nodes []*ringNode
	var plain []*node
	for range 2 {
		remotes := map[string]cache.Remote{}
		for name, s := range servers {
			remotes[name] = connect(t, s.Addr())
		}
		n := newRingNode(t, cache.RingOptions{Servers: remotes, Gutter: connect(t, gutter.Addr()),
			GutterTTL: time.Minute, Rest: 500 * time.Millisecond})
		nodes, plain = append(nodes, n), append(plain, n.node)
	}
	until := func(what string, ok func(n *ringNode) bool) {
		t.Helper()
		for i, n := range nodes {
			require.Eventually(t, func() bool {
				return ok(n)
			}, patience, 2*time.Millisecond, "%s: process %d, %+v", what, i, n.ring.Stats())
		}
	}
	out := func(n *ringNode) bool { return n.ring.Stats().Out == 1 }
	in := func(n *ringNode) bool { return n.ring.Stats().Out == 0 && n.ring.Trusted() }

	// 300 cold keys, asked for by both: the source is asked once for each, whatever is out.
	const keys = 300
	var loads atomic.Int64
	all := func(when string, first int) int64 {
		t.Helper()
		loads.Store(0)
		for k := first; k < first+keys; k++ {
			for _, n := range nodes {
				v, err := n.Load(t.Context(), k, func(_ context.Context, k int) (int, error) {
					loads.Add(1)
					return k, nil
				})
				require.NoError(t, err, when)
				require.Equal(t, k, v, when)
			}
		}
		return loads.Load()
	}
	require.EqualValues(t, keys, all("at the start", 1000))

	var h history
	var during int64
	err := h.run(plain, func(n *node) func(context.Context, int) error { return n.Drop }, func() {
		servers["b"].Freeze()
		until("frozen", out)
		servers["b"].Thaw()
		until("thawed", in)
		servers["b"].Kill()
		until("killed", out)
		until("killed: trusted without the dead server", func(n *ringNode) bool { return n.ring.Trusted() })
		// the first tiers were emptied: what a and c have is still there, b's keys go to the gutter once
		for _, n := range nodes {
			before := n.Stats().L1Hits
			until("killed: first tier serves", func(*ringNode) bool { return n.Stats().L1Hits > before })
		}
		during = all("killed", 1000)
		require.NoError(t, servers["b"].Restart(t.Context()))
		until("restarted", in)
	})
	require.NoError(t, err)
	require.Positive(t, h.changes.Load())
	require.Less(t, during, int64(keys*2/3), "only the keys of the dead server, and each once")
	require.Positive(t, during)
	require.Positive(t, nodes[0].ring.Stats().GutterFills+nodes[1].ring.Stats().GutterFills)
	require.Positive(t, nodes[0].ring.Stats().GutterHits+nodes[1].ring.Stats().GutterHits)

	for _, n := range nodes {
		n.l1.Clear()
	}
	require.Zero(t, all("after the return", 1000), "what the server lost comes from the gutter")
	require.Positive(t, nodes[0].ring.Stats().Warmed+nodes[1].ring.Stats().Warmed)
	for k := range 8 { // what nobody acknowledged while the server was out is acknowledged now
		want := h.source[k].Load()
		require.NoError(t, nodes[k%2].Drop(t.Context(), k))
		for _, n := range nodes {
			v, err := n.Load(t.Context(), k, func(context.Context, int) (int, error) {
				return int(h.source[k].Load()), nil
			})
			require.NoError(t, err)
			require.EqualValues(t, want, v)
		}
	}
}

// A server is added and another removed while both processes read and change, told at different times: nothing stale,
// and nothing is loaded again.
func TestRingServersMove(t *testing.T) {
	addrs := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		addrs[name] = testserver.Redis(t).Addr()
	}
	var nodes []*ringNode
	var plain []*node
	var after []map[string]cache.Remote
	for range 2 {
		r := map[string]cache.Remote{}
		for name, addr := range addrs {
			r[name] = connect(t, addr)
		}
		n := newRingNode(t, cache.RingOptions{Servers: map[string]cache.Remote{"a": r["a"], "b": r["b"], "c": r["c"]},
			Overlap: 4 * time.Second})
		nodes, plain = append(nodes, n), append(plain, n.node)
		after = append(after, map[string]cache.Remote{"a": r["a"], "b": r["b"], "d": r["d"]})
	}
	const keys = 60 // few enough that a slow machine asks for each within one Overlap
	var loads atomic.Int64
	all := func() error {
		for k := 1000; k < 1000+keys; k++ {
			v, err := nodes[k%2].Load(t.Context(), k, func(_ context.Context, k int) (int, error) {
				loads.Add(1)
				return k, nil
			})
			if err != nil || v != k {
				return fmt.Errorf("key %d: %d, %w", k, v, err)
			}
		}
		return nil
	}
	require.NoError(t, all())
	require.EqualValues(t, keys, loads.Load())
	var h history
	var faults error
	err := h.run(plain, func(n *node) func(context.Context, int) error { return n.Drop }, func() {
		for i, n := range nodes {
			if faults == nil {
				faults = n.ring.SetServers(after[i])
			}
			// work of the first on the new list, the second on the old
			for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end) && faults == nil; {
				faults = all()
			}
		}
		for end := time.Now().Add(patience); nodes[0].ring.Moving() || nodes[1].ring.Moving(); {
			for _, n := range nodes {
				for k := 1000; k < 1000+keys; k++ {
					n.l1.Delete(k) // so that the servers are asked
				}
			}
			if err := all(); err != nil && faults == nil {
				faults = err
			}
			if time.Now().After(end) {
				faults = fmt.Errorf("the move does not end")
				return
			}
		}
	})
	require.NoError(t, err)
	require.NoError(t, faults)
	require.Positive(t, h.changes.Load())
	if st := [2]cache.RingStats{nodes[0].ring.Stats(), nodes[1].ring.Stats()}; st[0].Errors+st[0].Outs+st[1].Errors+
		st[1].Outs == 0 {
		require.EqualValues(t, keys, loads.Load(), "taken from where they were")
	} else { // a machine so slow that servers seem out: what is asked meanwhile is loaded
		t.Logf("%d loads of %d keys, %+v", loads.Load(), keys, st)
	}
	require.Positive(t, nodes[0].ring.Stats().Warmed+nodes[1].ring.Stats().Warmed)
	c := redis.NewClient(&redis.Options{Addr: addrs["d"]})
	defer c.Close()
	held, err := c.Keys(t.Context(), "cache:v:*").Result()
	require.NoError(t, err)
	require.Greater(t, len(held), keys/6, "the new server has its share")
	require.EqualValues(t, 3, nodes[0].ring.Stats().Servers)
}

func TestRingManyKeys(t *testing.T) {
	remotes := map[string]cache.Remote{}
	var servers []*testserver.RedisServer
	for i := range 3 {
		s := testserver.Redis(t)
		servers = append(servers, s)
		remotes[strconv.Itoa(i)] = connect(t, s.Addr())
	}
	n := newRingNode(t, cache.RingOptions{Servers: remotes, Gutter: connect(t, testserver.Redis(t).Addr())})
	var keys []int
	want := map[int]int{}
	for k := range 100 {
		keys = append(keys, k)
		want[k] = k
	}
	var loaded atomic.Int64
	get := func() {
		t.Helper()
		n.l1.Clear()
		got, err := n.LoadMany(t.Context(), keys, func(_ context.Context, keys []int) (map[int]int, error) {
			m := map[int]int{}
			for _, k := range keys {
				m[k] = k
			}
			loaded.Add(int64(len(keys)))
			return m, nil
		})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	get()
	get()
	require.EqualValues(t, 100, loaded.Load())
	servers[0].Kill()
	get() // the keys of the dead server, into the gutter
	after := loaded.Load()
	require.Greater(t, after, int64(110))
	require.Less(t, after, int64(170))
	get()
	require.Equal(t, after, loaded.Load())
	require.Equal(t, after-100, n.ring.Stats().GutterHits)
}

func TestRingOptionsNameTheField(t *testing.T) {
	s := map[string]cache.Remote{"a": connect(t, testserver.Redis(t).Addr())}
	for field, o := range map[string]cache.RingOptions{"Servers": {}, "GutterTTL": {Servers: s, GutterTTL: -1},
		"Failures": {Servers: s, Failures: -1},
		"Rest":     {Servers: s, Rest: -1}, "Probe": {Servers: s, Probe: 1}, "Overlap": {Servers: s, Overlap: -1},
		"a|b": {Servers: map[string]cache.Remote{"a|b": s["a"]}}} {
		_, err := cache.NewRing(o)
		require.ErrorContains(t, err, field)
	}
}
