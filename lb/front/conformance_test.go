package front_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/internal/test/proxytest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
)

// conform plays every case of the suite that other proxies are measured with, see benchmarks/lb/conformance.
func conform(t *testing.T, start func(t *testing.T, b *lb.Balancer) (addr string), known map[string]string) {
	posts := exhaustive.N(t, 500, 2_000) // TestNoPostIsSentTwice sends more
	o, err := proxytest.NewOrigin()
	require.NoError(t, err)
	t.Cleanup(o.Close)
	b := lbtest.New(t, []lb.Endpoint{{Addr: o.Addr()}}, lb.Options{Outlier: lb.Outlier{Disabled: true}})
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
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, lbtest.WaitFor, lbtest.Pause)
}

func TestHandlerConforms(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	conform(t, func(t *testing.T, b *lb.Balancer) string {
		url, _ := lbtest.Handle(t, b)
		return url[len("http://"):]
	}, map[string]string{
		"length-and-chunks": "net/http keeps the connection and hides the length from handlers: only Front closes it",
	})
}

func TestFrontConforms(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	conform(t, func(t *testing.T, b *lb.Balancer) string {
		_, addr := serve(t, b, front.Options{})
		return addr
	}, nil)
}
