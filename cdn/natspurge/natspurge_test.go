package natspurge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type edge struct {
	cache *cdn.Cache
	bus   *Bus
	nc    *nats.Conn
	h     http.Handler
}

func (e *edge) get(path string) string {
	w := httptest.NewRecorder()
	e.h.ServeHTTP(w, httptest.NewRequest("GET", "http://a.example"+path, nil))
	return w.Result().Header.Get("Cache-Status")
}

func join(t *testing.T, srv *testserver.NATSServer, o Options) *edge {
	nc, err := nats.Connect(srv.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c, err := cdn.New(cdn.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	b, err := Join(nc, c, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return &edge{c, b, nc, c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Surrogate-Key", "all")
		fmt.Fprint(w, "hello")
	}))}
}

// warm asks until the object is kept.
func (e *edge) warm(t *testing.T, path string) {
	t.Helper()
	e.get(path)
	require.Eventually(t, func() bool { return e.cache.Stats().InFlight == 0 }, 20*time.Second, time.Millisecond)
	require.Contains(t, e.get(path), "hit")
}

func TestAPurgeReachesTheFleet(t *testing.T) {
	srv := testserver.NATS(t)
	var edges []*edge
	for range 3 {
		edges = append(edges, join(t, srv, Options{Edges: 3, Wait: 20 * time.Second}))
	}
	for _, m := range []cdn.Match{{URL: "http://a.example/x"}, {Prefix: "http://a.example/"}, {Tag: "all"},
		{All: true}} {
		for _, e := range edges {
			e.warm(t, "/x")
		}
		n, err := edges[1].bus.Purge(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		for _, e := range edges {
			require.Contains(t, e.get("/x"), "fwd=uri-miss", m)
		}
	}
	require.EqualValues(t, 4, edges[1].bus.Stats().Sent)
	require.EqualValues(t, 4, edges[0].bus.Stats().Received)
	_, err := edges[0].bus.Purge(t.Context(), cdn.Match{})
	require.ErrorContains(t, err, "exactly one")

	require.NoError(t, edges[2].bus.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = edges[0].bus.Purge(ctx, cdn.Match{All: true})
	require.ErrorIs(t, err, ErrMissing)
}

// An edge that was cut off may have missed a purge: what it has is stale when it comes back.
func TestAnEdgeThatWasCutOffTrustsNothing(t *testing.T) {
	srv := testserver.NATS(t)
	errs := make(chan error, 10)
	e := join(t, srv, Options{Wait: 100 * time.Millisecond, OnError: func(err error) { errs <- err }})
	keep := join(t, srv, Options{KeepOnReconnect: true})
	e.warm(t, "/x")
	keep.warm(t, "/x")
	srv.Kill()
	require.Eventually(t, func() bool {
		return !e.nc.IsConnected() && !keep.nc.IsConnected()
	}, 20*time.Second, time.Millisecond)
	n, err := e.bus.Purge(t.Context(), cdn.Match{URL: "http://a.example/other"})
	require.ErrorIs(t, err, nats.ErrConnectionReconnecting, "nobody was told")
	require.Zero(t, n)
	require.Contains(t, e.get("/x"), "hit", "while it is cut off it serves what it has")
	require.NoError(t, srv.Restart(t.Context()))
	require.Eventually(t, func() bool { return e.bus.Stats().Reconnects == 1 }, 20*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return keep.nc.IsConnected() }, 20*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		return e.get("/x") != "" && e.cache.Stats().Misses+e.cache.Stats().Revalidated >= 2
	}, 20*time.Second, time.Millisecond)
	require.Contains(t, keep.get("/x"), "hit")
	require.NoError(t, e.nc.Publish("tierkit.cdn.purge", []byte("nonsense")))
	select {
	case err := <-errs:
		require.ErrorContains(t, err, "malformed")
	case <-time.After(20 * time.Second):
		t.Fatal("no error")
	}
}

type broken struct{}

func (broken) Purge(context.Context, cdn.Match) (int, error) { return 0, errors.New("disk is full") }

func TestFailuresAndOptions(t *testing.T) {
	srv := testserver.NATS(t)
	e := join(t, srv, Options{Edges: 2, Wait: 20 * time.Second, Name: "good"})
	bad, err := Join(e.nc, broken{}, Options{Name: "bad"})
	require.NoError(t, err)
	defer bad.Close()
	e.warm(t, "/x")
	n, err := e.bus.Purge(t.Context(), cdn.Match{All: true})
	require.ErrorContains(t, err, "bad: disk is full")
	require.Equal(t, 1, n)
	for want, o := range map[string]Options{"Subject": {Subject: "a.*"}, "Wait": {Wait: -1}} {
		_, err = Join(e.nc, broken{}, o)
		require.ErrorContains(t, err, want)
	}
	_, err = Join(nil, broken{}, Options{})
	require.Error(t, err)
}
