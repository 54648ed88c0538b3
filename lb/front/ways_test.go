package front_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
	"github.com/tierkit/tierkit/lb/probe"
)

// What net/http/httputil.ReverseProxy documents or is known to guarantee, of the handler and of the front. What the
// conformance suite asks of every proxy (flushing, trailers, cancellation, 1xx, hop fields) is not repeated here.
func TestReverseProxysGuarantees(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	answer := make(chan string, 1)
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			heads <- head.String()
			a := <-answer
			io.WriteString(c, a)
			if strings.Contains(a, "Connection: close") || strings.Contains(a, " 101 ") {
				return
			}
		}
	})
	modes := map[string]func(*testing.T, *lb.Balancer) string{
		"handler": func(t *testing.T, b *lb.Balancer) string {
			url, _ := lbtest.Handle(t, b)
			return url[len("http://"):]
		},
		"front": func(t *testing.T, b *lb.Balancer) string {
			_, addr := serve(t, b, front.Options{})
			return addr
		},
	}
	for name, start := range modes {
		t.Run(name, func(t *testing.T) {
			addr := start(t, lbtest.New(t, []lb.Endpoint{e}, lb.Options{Outlier: lb.Outlier{Disabled: true}}))
			ask := func(t *testing.T, request, with string) (head string, res *http.Response, body string, err error) {
				t.Helper()
				c, br := dial(t, addr)
				defer c.Close()
				io.WriteString(c, request)
				head = <-heads
				answer <- with
				if res, err = http.ReadResponse(br, nil); err != nil {
					return head, nil, "", err
				}
				b, err := io.ReadAll(res.Body)
				return head, res, string(b), err
			}
			const get = "GET / HTTP/1.1\r\nHost: site.example\r\n"

			t.Run("an empty first Connection field hides nothing (CVE-2021-33197)", func(t *testing.T) {
				head, _, _, err := ask(t, get+"Connection:\r\nConnection: X-Private\r\nX-Private: a\r\n\r\n", lbtest.OK)
				require.NoError(t, err)
				require.NotContains(t, head, "X-Private")
			})
			t.Run("no User-Agent stays none", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", lbtest.OK)
				require.NoError(t, err)
				require.NotContains(t, strings.ToLower(head), "user-agent")
			})
			t.Run("Host passes, X-Forwarded-* are set", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", lbtest.OK)
				require.NoError(t, err)
				for _, want := range []string{"Host: site.example\r\n", "X-Forwarded-Host: site.example\r\n",
					"X-Forwarded-Proto: http\r\n", "X-Forwarded-For: 127.0.0.1\r\n"} {
					require.Contains(t, head, want)
				}
			})
			// ReverseProxy drops parts of a query that it can't parse
			t.Run("paths and queries pass as they were sent", func(t *testing.T) {
				for _, target := range []string{"/a%2Fb", "/a//b", "/?a=1;b=2", "/?a=%zz", "/?", "/a/../b",
					"/%20?x=%20"} {
					head, _, _, err := ask(t, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n", lbtest.OK)
					require.NoError(t, err)
					require.True(t, strings.HasPrefix(head, "GET "+target+" HTTP/1.1\r\n"), head)
				}
			})
			t.Run("no body is announced for a request without one (golang/go#16036)", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", lbtest.OK)
				require.NoError(t, err)
				require.NotContains(t, head, "Transfer-Encoding")
				require.NotContains(t, head, "Content-Length")
			})
			t.Run("trailers that were not announced pass", func(t *testing.T) {
				_, res, body, err := ask(t, get+"TE: trailers\r\n\r\n",
					"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, "ok", body)
				require.Equal(t, "1", res.Trailer.Get("X-Late"))
			})
			t.Run("a type that the backend did not give is not guessed", func(t *testing.T) {
				_, res, _, err := ask(t, get+"\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
				require.NoError(t, err)
				require.Empty(t, res.Header["Content-Type"])
			})
			t.Run("several Set-Cookie fields stay several", func(t *testing.T) {
				_, res, _, err := ask(t, get+"\r\n",
					"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, []string{"a=1", "b=2"}, res.Header["Set-Cookie"])
			})
			t.Run("a body that breaks off is broken off", func(t *testing.T) {
				_, _, _, err := ask(t, get+"\r\n",
					"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc")
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			})
			t.Run("a switch to another protocol than was asked for is a 502", func(t *testing.T) {
				_, res, _, err := ask(t, get+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
					"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, res.StatusCode)
			})
			t.Run("so is a switch that nobody asked for", func(t *testing.T) {
				_, res, _, err := ask(t, get+"X-A: b\r\n\r\n",
					"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, res.StatusCode)
			})
		})
	}
}

// A question that there is no room for at once goes out in pieces.
func TestAskInPieces(t *testing.T) {
	t.Parallel()
	const size = 512 << 10
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			io.WriteString(w, strconv.FormatInt(n, 10))
		})}}
	s.Start()
	t.Cleanup(s.Close)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			b := lbtest.New(t, []lb.Endpoint{{Addr: l.Addr().String()}}, lb.Options{
				Retry: lb.Retry{MaxBody: size},
				Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
					if err == nil {
						c.(*net.TCPConn).SetWriteBuffer(16 << 10)
					}
					return c, err
				},
			})
			url, client := way(t, b)
			for range 2 {
				res, err := client.Post(url, "text/plain", bytes.NewReader(make([]byte, size)))
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				require.NoError(t, err)
				require.Equal(t, strconv.Itoa(size), string(body))
			}
		})
	}
}

// Backends are killed and started again under load: no idempotent request may fail.
func TestKilledBackendsCostNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { killedBackendsCostNothing(t, way) })
	}
}

func killedBackendsCostNothing(t *testing.T, way func(testing.TB, *lb.Balancer) (string, *http.Client)) {
	type node struct {
		e    lb.Endpoint
		stop func()
	}
	start := func(addr string) node {
		l := testserver.Listen()
		if addr != "" {
			l.Close()
			var err error
			for range 200 {
				if l, err = net.Listen("tcp", addr); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			require.NoError(t, err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond)
			fmt.Fprint(w, "ok")
		})}
		done := make(chan error)
		go func() { done <- s.Serve(l) }()
		return node{lb.Endpoint{Addr: l.Addr().String()}, func() { s.Close(); <-done }}
	}
	var nodes []node
	var es []lb.Endpoint
	for range 4 {
		n := start("")
		nodes, es = append(nodes, n), append(es, n.e)
	}
	b := lbtest.New(t, es, lb.Options{Outlier: lb.Outlier{Ejection: 20 * time.Millisecond},
		Health: lb.Health{Probe: probe.TCP(), Interval: 20 * time.Millisecond}})
	url, c := way(t, b)
	var failed, done atomic.Int64
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Get(url)
				if err != nil || res.StatusCode != 200 {
					failed.Add(1)
				}
				if err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				done.Add(1)
			}
		})
	}
	for i := range 8 {
		n := i % len(nodes)
		nodes[n].stop()
		time.Sleep(40 * time.Millisecond)
		nodes[n] = start(nodes[n].e.Addr)
		time.Sleep(60 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	for _, n := range nodes {
		n.stop()
	}
	require.Zero(t, failed.Load(), "of %d requests", done.Load())
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, lbtest.WaitFor, lbtest.Pause)
}

// 10,000 POSTs to a backend that ends idle connections whenever it likes: none is processed twice, and each that was
// not answered is a 502. Connections and goroutines are back to where they were.
func TestNoPostIsSentTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { noPostIsSentTwice(t, way) })
	}
}

func noPostIsSentTwice(t *testing.T, way func(testing.TB, *lb.Balancer) (string, *http.Client)) {
	var mu sync.Mutex
	seen := map[string]int{}
	e := lbtest.Backend(t, func(n int, c net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			id, _ := io.ReadAll(r.Body)
			mu.Lock()
			seen[string(id)]++
			mu.Unlock()
			if _, err := io.WriteString(c, lbtest.OK); err != nil {
				return
			}
			if rand.IntN(4) == 0 { // an end without a word, at once or a moment later
				if rand.IntN(2) == 0 {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
				}
				return
			}
		}
	})
	posts := int64(exhaustive.N(t, 2_000, 10_000))
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{Outlier: lb.Outlier{Disabled: true}})
	url, client := way(t, b)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
	goroutines, files := runtime.NumGoroutine(), openFiles()
	var answered, refused, next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > posts {
					return
				}
				res, err := client.Post(url, "text/plain", strings.NewReader(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				switch res.StatusCode {
				case 200:
					answered.Add(1)
				case 502:
					refused.Add(1)
				default:
					t.Errorf("status %d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	b.Close()
	mu.Lock()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("POST %s was processed %d times", id, n)
		}
	}
	require.GreaterOrEqual(t, int64(len(seen)), answered.Load())
	mu.Unlock()
	require.EqualValues(t, posts, answered.Load()+refused.Load())
	require.Less(t, refused.Load(), posts/10, "most stale connections are seen before they are used")
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > goroutines+5 || openFiles() > files+
		5; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %d files, at the start %d and %d", runtime.NumGoroutine(), openFiles(),
				goroutines, files)
		}
	}
}

func openFiles() int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not on Linux
	}
	return len(es)
}
