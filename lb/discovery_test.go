package lb

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiterHoldsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := NewLimiter(RateLimit{PerSecond: 10, Burst: 5})
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
	l, err := NewLimiter(RateLimit{PerSecond: 0.001, Burst: 1,
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
	l, err := NewLimiter(RateLimit{PerSecond: 1, MaxKeys: 1000})
	require.NoError(t, err)
	for i := range 100_000 {
		l.Allow(strconv.Itoa(i))
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].now) + len(l.shards[i].last)
	}
	require.LessOrEqual(t, n, 1000)
	for _, bad := range []RateLimit{{}, {PerSecond: -1}, {PerSecond: 1, Burst: -1}} {
		_, err := NewLimiter(bad)
		require.Error(t, err)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(1), Options{})
		require.NoError(t, err)
		defer b.Close()
		type reply struct {
			es  []Endpoint
			err error
		}
		var answer atomic.Pointer[reply]
		var errs atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		answer.Store(&reply{es: endpoints(3)})
		go func() {
			done <- b.Watch(ctx, time.Second, func(context.Context) ([]Endpoint, error) {
				r := answer.Load()
				return r.es, r.err
			}, func(error) { errs.Add(1) })
		}()
		synctest.Wait()
		require.Len(t, b.Backends(), 3)
		answer.Store(&reply{})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		require.Len(t, b.Backends(), 3, "an empty list is not believed")
		answer.Store(&reply{endpoints(2), errors.New("directory is down")})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, b.Backends(), 3)
		answer.Store(&reply{es: endpoints(2)})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, b.Backends(), 2)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.EqualValues(t, 2, errs.Load())
	})
}

func TestFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	write := func(s string) { require.NoError(t, os.WriteFile(path, []byte(s), 0o600)) }
	write("# web\n10.0.0.2:80 weight=2 zone=a\n\n10.0.0.1:80 id=one priority=1 # comment\n")
	es, err := FromFile(path)(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Endpoint{{ID: "one", Addr: "10.0.0.1:80", Priority: 1},
		{Addr: "10.0.0.2:80", Weight: 2, Zone: "a"}}, es)
	for _, bad := range []string{"nonsense", "10.0.0.1:80 colour=red", "10.0.0.1:80 weight=x",
		"10.0.0.1:80 weight=-1"} {
		write("10.0.0.9:80\n" + bad)
		_, err := FromFile(path)(t.Context())
		require.ErrorContains(t, err, ":2:", bad)
	}
	_, err = FromFile(path + "x")(t.Context())
	require.Error(t, err)
}
