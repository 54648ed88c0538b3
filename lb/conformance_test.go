package lb

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tierkit/tierkit/internal/proxytest"
)

// conform plays every case of the suite that other proxies are measured with, see benchmarks/lb/conformance.
func conform(t *testing.T, start func(t *testing.T, b *Balancer) (addr string), known map[string]string) {
	posts := 10_000
	if testing.Short() {
		posts = 500
	}
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
