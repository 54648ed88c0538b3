package lb

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/proxytest"
)

// conform plays every case of the suite that other proxies are measured with, see benchmarks/lb/conformance.
func conform(t *testing.T, start func(t *testing.T, b *Balancer) (addr string), known map[string]string) {
	const posts = 2_000 // TestNoPostIsSentTwice sends 10,000
	o, err := proxytest.NewOrigin()
	require.NoError(t, err)
	t.Cleanup(o.Close)
	b := newBalancer(t, []Endpoint{{Addr: o.Addr()}}, Options{Outlier: Outlier{Disabled: true}})
	addr := start(t, b)
	for _, c := range proxytest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			err := proxytest.Run(c, addr, o, proxytest.Options{Posts: posts})
			if why, ok := known[c.Name]; ok {
				require.Error(t, err, "no longer so: %s", why)
				return
			}
			require.NoError(t, err, c.About)
		})
	}
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, waitFor, pause)
}

func TestHandlerConforms(t *testing.T) {
	conform(t, func(t *testing.T, b *Balancer) string {
		url, _ := front(t, b)
		return url[len("http://"):]
	}, map[string]string{
		"length-and-chunks": "net/http keeps the connection and hides the length from handlers: only Front closes it",
	})
}

// serveFront starts a front and returns its address.
func serveFront(t testing.TB, b *Balancer, o FrontOptions) (*Front, string) {
	t.Helper()
	f, err := NewFront(b, o)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- f.Serve(l) }()
	t.Cleanup(func() {
		f.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return f, l.Addr().String()
}

func TestFrontConforms(t *testing.T) {
	conform(t, func(t *testing.T, b *Balancer) string {
		_, addr := serveFront(t, b, FrontOptions{})
		return addr
	}, nil)
}
