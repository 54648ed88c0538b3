package cdn

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHostsAreCounted(t *testing.T) {
	c := newCache(t, Options{})
	h := c.Handler(reply(200, "hello", "Cache-Control: max-age=60"))
	for range 3 {
		do(h, "GET", "http://A.example:80/x")
	}
	do(h, "POST", "http://b.example/y")
	do(h, "GET", "http://b.example/none", "Cache-Control: no-store")
	settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
	got := c.Hosts()
	require.Len(t, got, 2)
	require.Equal(t, "a.example", got[0].Host)
	require.EqualValues(t, 3, got[0].Requests)
	require.EqualValues(t, 15, got[0].BytesOut)
	require.EqualValues(t, 5, got[0].BytesIn)
	require.Equal(t, 1, got[0].Objects)
	require.EqualValues(t, got[0].Bytes, c.Stats().Bytes)
	require.Equal(t, HostStats{Host: "b.example", Requests: 2, BytesOut: 10, BytesIn: 10}, got[1])
	for i := range 2 * maxHosts { // invented names take no more than their share
		do(h, "GET", fmt.Sprintf("http://h%d.example/x", i))
	}
	require.Len(t, c.Hosts(), maxHosts+1)
}

func TestAHostCrowdsOutNobody(t *testing.T) {
	c := newCache(t, Options{MaxBytes: 4 << 20, MaxHostBytes: 1 << 20})
	s := &site{h: reply(200, strings.Repeat("x", 10_000), "Cache-Control: max-age=60")}
	h := c.Handler(s)
	for i := range 20 {
		do(h, "GET", fmt.Sprint("http://small.example/", i))
	}
	for i := range 1000 {
		do(h, "GET", fmt.Sprint("http://greedy.example/", i))
	}
	settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
	for _, hs := range c.Hosts() {
		require.LessOrEqual(t, hs.Bytes, int64(1<<20), hs.Host)
	}
	before := s.count()
	for i := range 20 {
		do(h, "GET", fmt.Sprint("http://small.example/", i))
	}
	require.Equal(t, before, s.count(), "all of them still there")
	for k := range 20 { // and all together stay within the whole budget
		for i := range 100 {
			do(h, "GET", fmt.Sprintf("http://h%d.example/%d", k, i))
		}
	}
	settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
	require.LessOrEqual(t, c.Stats().Bytes, int64(4<<20))
	require.Greater(t, c.Stats().Bytes, int64(3<<20))
	_, err := New(Options{MaxHostBytes: 1})
	require.ErrorContains(t, err, "MaxHostBytes")
}

// After a purge of everything the origin is asked for no more at a time than it is allowed to, and what was purged
// softly serves meanwhile.
func TestAMassPurgeDoesNotFlattenTheOrigin(t *testing.T) {
	var now, most atomic.Int64
	gate := make(chan struct{})
	var slow atomic.Bool
	c := newCache(t, Options{MaxFills: 4})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		if slow.Load() {
			<-gate
		}
		now.Add(-1)
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, r.URL.Path)
	}))
	get := func(i int) *http.Response { return do(h, "GET", fmt.Sprint("http://a.example/", i)) }
	for i := range 100 {
		get(i)
	}
	most.Store(0)
	slow.Store(true)
	n, err := c.Purge(t.Context(), Match{All: true, Soft: true})
	require.NoError(t, err)
	require.Equal(t, 100, n)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { get(i) })
	}
	settle(t, "four at the origin", func() bool { return now.Load() == 4 })
	for i := 4; i < 100; i++ {
		res := get(i)
		require.Equal(t, fmt.Sprint("/", i), text(res))
		require.Contains(t, res.Header.Get("Cache-Status"), "origin-busy")
	}
	// and nothing is left that could serve: they wait their turn
	_, err = c.Purge(t.Context(), Match{Prefix: "http://a.example/"})
	require.NoError(t, err)
	for i := 4; i < 100; i++ {
		wg.Go(func() {
			if res := get(i); text(res) != fmt.Sprint("/", i) {
				t.Error(i)
			}
		})
	}
	settle(t, "all have asked", func() bool { return c.Stats().InFlight == 100 })
	close(gate)
	wg.Wait()
	require.EqualValues(t, 4, most.Load())
}

func TestFillsThatWaitTooLongGiveUp(t *testing.T) {
	c := newCache(t, Options{MaxFills: 1, FillTimeout: 50 * time.Millisecond})
	gate := make(chan struct{})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-gate }))
	var wg sync.WaitGroup
	wg.Go(func() { do(h, "GET", "http://a.example/1") })
	settle(t, "one at the origin", func() bool { return c.Stats().InFlight == 1 })
	require.Equal(t, http.StatusGatewayTimeout, do(h, "GET", "http://a.example/2").StatusCode)
	close(gate)
	wg.Wait()
}
