package lb

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkHandler counts what the handler allocates for a request beyond what net/http does: the backend is a loop
// over bytes, and the ResponseWriter keeps nothing.
func BenchmarkHandler(b *testing.B) {
	e := fakeBackend(b, func(_ int, c net.Conn, br *bufio.Reader) {
		answer := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
	bal := newBalancer(b, []Endpoint{e}, Options{})
	h := handlerOf(b, bal)
	w := &nullWriter{h: http.Header{}}
	r, err := http.NewRequest("GET", "http://site.example/path?q=1", nil)
	require.NoError(b, err)
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header = http.Header{"User-Agent": {"a"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Cookie": {"a=b"}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// A pick from 16 answers at hand; the probes that it asks for are not in it.
func BenchmarkPrequal(b *testing.B) {
	bal := newBalancer(b, endpoints(100), Options{Policy: Prequal(PrequalOptions{Rate: 0.01,
		Probe: func(context.Context, Target) (int, time.Duration, error) { return 0, 0, errNoLoad }})})
	r := bal.prober
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if len(r.pool) < 16 {
			b.StopTimer()
			for len(r.pool) < 16 {
				i++
				r.take(answer{b: r.bs[i%100], inFlight: float64(i % 7),
					latency: time.Duration(i%13) * time.Millisecond, at: time.Since(began)})
			}
			b.StartTimer()
		}
		r.mu.Lock()
		r.choose(time.Since(began))
		r.mu.Unlock()
	}
}
