package redisstore_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/redisstore"
	"github.com/tierkit/tierkit/session/sessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, addr string) *redisstore.Store {
	c := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { c.Close() })
	s, err := redisstore.New(c, redisstore.Options{})
	require.NoError(t, err)
	return s
}

func TestMiniredis(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	sessiontest.Run(t, func(t *testing.T) session.Store { return open(t, addr) })
}

func TestRedis(t *testing.T) {
	addr := testserver.Redis(t).Addr()
	sessiontest.Run(t, func(t *testing.T) session.Store { return open(t, addr) })
}

// Every script touches one key, and no operation needs two keys in one slot: a server in cluster mode refuses anything
// else.
func TestRedisCluster(t *testing.T) {
	server := testserver.Redis(t, testserver.RedisOptions{Cluster: true})
	node := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer node.Close()
	require.NoError(t, node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool {
		info, err := node.ClusterInfo(t.Context()).Result()
		return err == nil && len(info) > 16 && info[:16] == "cluster_state:ok"
	}, 30*time.Second, 10*time.Millisecond)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, ContextTimeoutEnabled: true})
	defer c.Close()
	s, err := redisstore.New(c, redisstore.Options{})
	require.NoError(t, err)
	sessiontest.Run(t, func(t *testing.T) session.Store { return s })
}

func TestClientMustHeedItsContext(t *testing.T) {
	_, err := redisstore.New(nil, redisstore.Options{})
	require.ErrorContains(t, err, "client")
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer c.Close()
	_, err = redisstore.New(c, redisstore.Options{})
	require.ErrorContains(t, err, "ContextTimeoutEnabled")
	r := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer r.Close()
	_, err = redisstore.New(r, redisstore.Options{})
	require.ErrorContains(t, err, "ContextTimeoutEnabled")
}

// A server that has stopped without closing its connections: each request is answered within the bound, whatever the
// client's own timeouts and retries are, and soon none waits at all.
func TestFrozenServer(t *testing.T) {
	server := testserver.Redis(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer c.Close()
	store, err := redisstore.New(c, redisstore.Options{})
	require.NoError(t, err)
	sessions, err := session.New[int](store, session.Options{Insecure: true, StoreTimeout: 300 * time.Millisecond,
		OnFailure: session.Stale})
	require.NoError(t, err)
	h := sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessions.From(r.Context())
		var err error
		if r.URL.Path == "/write" {
			err = s.Update(r.Context(), func(n *int) error { *n++; return nil })
		} else {
			_, err = s.Get(r.Context())
		}
		if err != nil {
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
		}
	}))
	cookie := ""
	do := func(path string) (int, time.Duration) {
		r := httptest.NewRequest("GET", path, nil)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		w := httptest.NewRecorder()
		start := time.Now()
		h.ServeHTTP(w, r)
		if cs := w.Result().Cookies(); len(cs) > 0 {
			cookie = cs[0].Name + "=" + cs[0].Value
		}
		return w.Code, time.Since(start)
	}
	code, _ := do("/write")
	require.Equal(t, 200, code)
	server.Freeze()
	fast := 0
	for range 12 {
		code, took := do("/write")
		require.Equal(t, 503, code)
		require.Less(t, took, 5*time.Second)
		if took < 100*time.Millisecond {
			fast++
		}
	}
	require.Positive(t, fast)
	code, _ = do("/read")
	require.Equal(t, 200, code, "from this server's memory")
	known := cookie
	cookie = ""
	code, _ = do("/write")
	require.Equal(t, 503, code)
	server.Thaw()
	cookie = known
	require.Eventually(t, func() bool {
		code, _ := do("/write")
		return code == 200
	}, 30*time.Second, 20*time.Millisecond)
	_, err = sessions.List(context.Background(), "nobody")
	require.NoError(t, err)
}
