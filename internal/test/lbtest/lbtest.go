// Package lbtest holds what the tests of lb's parts share: pools of endpoints, and backends that follow a script.
package lbtest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/lb"
)

// WaitFor is how long a state is awaited, Pause how often it is looked at.
const WaitFor, Pause = 20 * time.Second, 2 * time.Millisecond

// OK is an answer without a connection field.
const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Endpoints returns n endpoints that nothing listens at.
func Endpoints(n int) []lb.Endpoint {
	es := make([]lb.Endpoint, n)
	for i := range es {
		es[i] = lb.Endpoint{ID: fmt.Sprintf("b%02d", i), Addr: fmt.Sprintf("192.0.2.%d:80", i+1)}
	}
	return es
}

// New returns a balancer that is closed with the test.
func New(t testing.TB, es []lb.Endpoint, o lb.Options) *lb.Balancer {
	t.Helper()
	b, err := lb.New(es, o)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// Serve starts a backend and returns its endpoint.
func Serve(t testing.TB, id string, h http.HandlerFunc) (lb.Endpoint, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return lb.Endpoint{ID: id, Addr: strings.TrimPrefix(s.URL, "http://")}, s
}

// Handle serves the handler of b and returns its URL and a client that keeps no connections beyond the test.
func Handle(t testing.TB, b *lb.Balancer) (url string, client *http.Client) {
	t.Helper()
	h, err := b.Handler(lb.ProxyOptions{})
	require.NoError(t, err)
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return s.URL, &http.Client{Transport: tr}
}

// Backend starts a backend that answers the requests of its n-th connection by a script.
func Backend(t testing.TB, each func(n int, c net.Conn, br *bufio.Reader)) lb.Endpoint {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				each(n, c, bufio.NewReader(c))
			})
		}
	})
	return lb.Endpoint{Addr: l.Addr().String()}
}
