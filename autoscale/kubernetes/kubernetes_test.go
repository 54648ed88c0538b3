package kubernetes

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/autoscale"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apiServer speaks the scale subresource as the API server does: versions, conflicts, Status objects.
type apiServer struct {
	mu        sync.Mutex
	replicas  int
	version   int
	conflicts int // others change it between our read and our write
	busy      int
	token     string
	puts      int
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	status := func(code int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure",
			"message": message, "code": code})
	}
	switch {
	case a.token != "" && r.Header.Get("Authorization") != "Bearer "+a.token:
		status(401, "Unauthorized")
		return
	case r.URL.Path == "/apis/apps/v1/namespaces/shop/deployments/forbidden/scale":
		status(403, `deployments.apps "forbidden" is forbidden`)
		return
	case r.URL.Path != "/apis/apps/v1/namespaces/shop/deployments/web/scale":
		status(404, `deployments.apps "`+r.URL.Path+`" not found`)
		return
	case a.busy > 0:
		a.busy--
		w.Header().Set("Retry-After", "1")
		status(429, "too many requests")
		return
	}
	if r.Method == http.MethodPut {
		a.puts++
		if a.conflicts > 0 {
			a.conflicts--
			a.version++ // somebody was faster
		}
		var s scale
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			status(400, err.Error())
			return
		}
		if s.Metadata["resourceVersion"] != fmt.Sprint(a.version) {
			status(409, "the object has been modified; please apply your changes to the latest version and try again")
			return
		}
		if s.Metadata["uid"] != "u-1" {
			status(422, "uid is missing")
			return
		}
		a.replicas = s.Spec.Replicas
		a.version++
	}
	json.NewEncoder(w).Encode(map[string]any{"kind": "Scale", "apiVersion": "autoscaling/v1",
		"metadata": map[string]any{"name": "web", "namespace": "shop", "uid": "u-1",
			"resourceVersion": fmt.Sprint(a.version)},
		"spec":   map[string]any{"replicas": a.replicas},
		"status": map[string]any{"replicas": a.replicas, "selector": "app=web"}})
}

func target(t *testing.T, a *apiServer, name string) *Target {
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	x, err := New(Options{Server: srv.URL, Namespace: "shop", Name: name, Token: func() (string, error) {
		return "secret", nil
	}, Client: srv.Client()})
	require.NoError(t, err)
	return x
}

func TestScale(t *testing.T) {
	a := &apiServer{replicas: 3, version: 7, token: "secret"}
	x := target(t, a, "web")
	n, err := x.Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.NoError(t, x.Set(t.Context(), 5))
	require.Equal(t, 5, a.replicas)
	require.NoError(t, x.Set(t.Context(), 5))
	require.Equal(t, 1, a.puts, "nothing to change, nothing sent")
	require.NoError(t, x.Set(t.Context(), 0), "to zero and back")
	require.NoError(t, x.Set(t.Context(), 1))
	require.Error(t, x.Set(t.Context(), -1))

	a.conflicts = 3
	require.NoError(t, x.Set(t.Context(), 9))
	require.Equal(t, 9, a.replicas)
	a.conflicts = 100
	require.ErrorIs(t, x.Set(t.Context(), 2), ErrConflict)
	require.Equal(t, 9, a.replicas)
	a.conflicts, a.busy = 0, 1
	require.NoError(t, x.Set(t.Context(), 2))
	require.Equal(t, 2, a.replicas)
	a.busy = 100
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = x.Get(ctx)
	require.ErrorContains(t, err, "too many requests")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestErrorsSayWhatTheServerSaid(t *testing.T) {
	a := &apiServer{token: "secret"}
	_, err := target(t, a, "gone").Get(t.Context())
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "not found")
	_, err = target(t, a, "forbidden").Get(t.Context())
	require.ErrorIs(t, err, ErrForbidden)
	a.token = "another"
	require.ErrorIs(t, target(t, a, "web").Set(t.Context(), 1), ErrForbidden)
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("<html>"))
	}))
	defer html.Close()
	x, err := New(Options{Server: html.URL, Namespace: "shop", Name: "web", Client: html.Client()})
	require.NoError(t, err)
	_, err = x.Get(t.Context())
	require.ErrorContains(t, err, "not with a Scale")
	for field, o := range map[string]Options{"Server": {Server: "10.0.0.1", Namespace: "a", Name: "b"},
		"Namespace": {Server: "https://x", Namespace: "../../api", Name: "b"},
		"Name":      {Server: "https://x", Namespace: "a"},
		"Resource":  {Server: "https://x", Namespace: "a", Name: "b", Resource: "deployments?x"}} {
		_, err := New(o)
		require.ErrorContains(t, err, "Options."+field)
	}
}

// The controller of package autoscale sizes the object, and does nothing while the server can't be asked.
func TestController(t *testing.T) {
	a := &apiServer{replicas: 2, version: 1, token: "secret"}
	load := 800.0
	c, err := autoscale.New(target(t, a, "web").Funcs(),
		autoscale.Policy{Min: 1, Max: 10, Metrics: []autoscale.Metric{{Name: "rps", Target: 100}}},
		func(context.Context) ([]autoscale.Sample, error) {
			return []autoscale.Sample{{Metric: "rps", Value: load}}, nil
		}, autoscale.Options{})
	require.NoError(t, err)
	_, err = c.Look(t.Context())
	require.NoError(t, err)
	require.Greater(t, a.replicas, 2)
	have := a.replicas
	a.token = "revoked"
	_, err = c.Look(t.Context())
	require.ErrorIs(t, err, ErrForbidden)
	require.Equal(t, have, a.replicas)
}

func TestInCluster(t *testing.T) {
	a := &apiServer{replicas: 4, token: "first"}
	srv := httptest.NewTLSServer(a)
	defer srv.Close()
	dir := t.TempDir() + "/"
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(srv.URL, "https://"))
	require.NoError(t, err)
	_, err = inCluster(dir, "", "", "", "", "web")
	require.ErrorContains(t, err, "not in a cluster")
	_, err = inCluster(dir, host, port, "", "", "web")
	require.ErrorContains(t, err, "ca.crt")
	write("ca.crt", "nonsense")
	_, err = inCluster(dir, host, port, "", "", "web")
	require.ErrorContains(t, err, "no certificate")
	write("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	write("token", "first\n")
	write("namespace", "shop\n")
	x, err := inCluster(dir, host, port, "", "", "web")
	require.NoError(t, err)
	defer x.o.Client.CloseIdleConnections()
	n, err := x.Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, 4, n)
	a.token = "second"
	write("token", "second") // rotated
	_, err = x.Get(t.Context())
	require.NoError(t, err)
}
