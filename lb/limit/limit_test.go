package limit

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiterHoldsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Options{PerSecond: 10, Burst: 5})
		require.NoError(t, err)
		run := func(n int) (passed int) {
			for range n {
				if ok, _ := l.Allow("a"); ok {
					passed++
				}
			}
			return passed
		}
		require.Equal(t, 5, run(50), "the burst")
		_, wait := l.Allow("a")
		require.Equal(t, 100*time.Millisecond, wait)
		ok, _ := l.Allow("b")
		require.True(t, ok, "others are not concerned")
		passed := 0
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			passed += run(3)
		}
		require.Equal(t, 10, passed, "a second's worth")
		time.Sleep(time.Hour)
		require.Equal(t, 5, run(50))
	})
}

func TestLimiterByClientNetwork(t *testing.T) {
	l, err := New(Options{PerSecond: 0.001, Burst: 1,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	require.NoError(t, err)
	h := l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ask := func(remote, xff string) int {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Forwarded-For", xff)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == 429 {
			require.NotEmpty(t, w.Header().Get("Retry-After"))
		}
		return w.Code
	}
	require.Equal(t, 200, ask("[2001:db8::1]:1", ""))
	require.Equal(t, 429, ask("[2001:db8::ffff]:1", ""), "one /64")
	require.Equal(t, 200, ask("[2001:db8:0:1::1]:1", ""))
	require.Equal(t, 200, ask("192.0.2.1:1", "1.1.1.1"))
	require.Equal(t, 429, ask("192.0.2.1:2", "2.2.2.2"), "a forged header changes nothing")
	require.Equal(t, 200, ask("10.0.0.1:1", "1.1.1.1"))
	require.Equal(t, 200, ask("10.0.0.1:1", "2.2.2.2"))
}

func TestLimiterForgets(t *testing.T) {
	l, err := New(Options{PerSecond: 1, MaxKeys: 1000})
	require.NoError(t, err)
	for i := range 100_000 {
		l.Allow(strconv.Itoa(i))
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].now) + len(l.shards[i].last)
	}
	require.LessOrEqual(t, n, 1000)
	for _, bad := range []Options{{}, {PerSecond: -1}, {PerSecond: 1, Burst: -1}} {
		_, err := New(bad)
		require.Error(t, err)
	}
}

func TestLoadMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m LoadMeter
		require.Equal(t, Load{}, m.Load())
		a := m.Begin() // alone
		b := m.Begin() // beside one
		require.Equal(t, 2, m.Load().InFlight)
		time.Sleep(10 * time.Millisecond)
		a.End(false)
		time.Sleep(20 * time.Millisecond)
		b.End(false)
		require.Equal(t, Load{0, 10 * time.Millisecond}, m.Load())
		c := m.Begin()
		require.Equal(t, Load{1, 30 * time.Millisecond}, m.Load(), "what it takes beside one")
		for range 30 {
			m.Begin()
		}
		require.Equal(t, Load{31, 30 * time.Millisecond}, m.Load(), "the nearest that is known")
		c.End(true)
		require.Equal(t, 30, m.Load().InFlight)
		time.Sleep(11 * time.Second)
		require.Zero(t, m.Load().Latency, "long ago")
		d := m.Begin()
		time.Sleep(time.Second)
		d.End(false)
		require.Equal(t, time.Second, m.Load().Latency)
	})
	last := 0
	for n := range int64(300_000) {
		i := levelOf(n)
		require.True(t, i == last || i == last+1, "%d: %d after %d", n, i, last)
		last = i
	}
	require.Equal(t, 63, last)

	var m LoadMeter
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/bad") {
			w.WriteHeader(500)
		}
		if r.URL.Path == "/panic" {
			panic("x")
		}
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/bad", nil))
	require.Panics(t, func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/panic", nil)) })
	require.Equal(t, Load{}, m.Load(), "failing is quick, and says nothing")
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	require.NotZero(t, m.Load().Latency)
	w := httptest.NewRecorder()
	m.ServeHTTP(w, nil)
	require.Contains(t, w.Body.String(), `"in_flight":0,"latency_ns":`)
}
