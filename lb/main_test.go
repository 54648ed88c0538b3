package lb

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func endpoints(n int) []Endpoint {
	es := make([]Endpoint, n)
	for i := range es {
		es[i] = Endpoint{ID: fmt.Sprintf("b%02d", i), Addr: fmt.Sprintf("192.0.2.%d:80", i+1)}
	}
	return es
}

func newBalancer(t testing.TB, es []Endpoint, o Options) *Balancer {
	t.Helper()
	b, err := New(es, o)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// serve starts a backend and returns its endpoint.
func serve(t testing.TB, id string, h http.HandlerFunc) (Endpoint, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Endpoint{ID: id, Addr: strings.TrimPrefix(s.URL, "http://")}, s
}

// front starts the balancer's handler and returns its address and a client that keeps no connections.
func front(t testing.TB, b *Balancer, o ...ProxyOptions) (url string, client *http.Client) {
	t.Helper()
	s := httptest.NewServer(handlerOf(t, b, o...))
	t.Cleanup(s.Close)
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return s.URL, &http.Client{Transport: tr}
}

func unreachable(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("refused")}
}

// How long a state is awaited, and how often it is looked at.
const waitFor, pause = 20 * time.Second, 2 * time.Millisecond

// handlerOf returns the handler of b.
func handlerOf(t testing.TB, b *Balancer, o ...ProxyOptions) *Handler {
	t.Helper()
	h, err := b.Handler(append(o, ProxyOptions{})[0])
	require.NoError(t, err)
	return h
}

// inTurn takes the backends in turn. The policies of users are in a package that imports this one.
type inTurn struct{}

func (inTurn) Picker(bs []*Backend) Picker { return &turn{bs: bs} }

type turn struct {
	bs []*Backend
	n  atomic.Uint64
}

func (t *turn) Pick(Key) *Backend { return t.bs[(t.n.Add(1)-1)%uint64(len(t.bs))] }

func noneInFlight(t *testing.T, b *Balancer) {
	t.Helper()
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, waitFor, pause)
}
