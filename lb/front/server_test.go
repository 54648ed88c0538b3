package front_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
	"github.com/tierkit/tierkit/lb/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ways are the two servers that a balancer can be behind.
var ways = map[string]func(t testing.TB, b *lb.Balancer) (url string, client *http.Client){
	"handler": lbtest.Handle,
	"front": func(t testing.TB, b *lb.Balancer) (string, *http.Client) {
		_, addr := serve(t, b, front.Options{})
		tr := &http.Transport{DisableCompression: true}
		t.Cleanup(tr.CloseIdleConnections)
		return "http://" + addr, &http.Client{Transport: tr}
	},
}

// serve starts a front and returns its address.
func serve(t testing.TB, b *lb.Balancer, o front.Options) (*front.Server, string) {
	t.Helper()
	f, err := front.New(b, o)
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

// dial returns a connection to a front that gives up after a while.
func dial(t testing.TB, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(lbtest.WaitFor))
	return c, bufio.NewReader(c)
}

func readAnswer(t testing.TB, br *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func TestFrontForwards(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	e, _ := lbtest.Serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.Host, " ", r.ContentLength, " ",
			r.Header.Get("X-Forwarded-For")))
		switch r.URL.Path {
		case "/big":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			io.WriteString(w, big)
		case "/chunked":
			io.WriteString(w, "one")
			w.(http.Flusher).Flush()
			io.WriteString(w, "two")
		case "/bigchunked":
			for range 16 {
				io.WriteString(w, big[:1<<16])
			}
		default:
			w.Write(body)
		}
	})
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
	f, addr := serve(t, b, front.Options{})
	c, br := dial(t, addr)
	for range 3 {
		io.WriteString(c, "GET /a%2Fb?q=1 HTTP/1.1\r\nHost: site.example\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
		res, _ := readAnswer(t, br, "GET")
		require.Equal(t, "GET /a%2Fb?q=1 site.example 0 127.0.0.1", res.Header.Get("X-Seen"))
		require.NotEmpty(t, res.Header.Get("Date"))
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
		_, body := readAnswer(t, br, "POST")
		require.Equal(t, "hello", body)
		long := big[:60_000] // more than the buffer holds, still short
		io.WriteString(c, fmt.Sprintf("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(long), long))
		_, body = readAnswer(t, br, "PUT")
		require.Equal(t, long, body)
		for path, want := range map[string]string{"/big": big, "/chunked": "onetwo", "/bigchunked": big} {
			io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
			_, body = readAnswer(t, br, "GET")
			require.True(t, want == body, path)
		}
		io.WriteString(c, "HEAD /big HTTP/1.1\r\nHost: a\r\n\r\n")
		res, _ = readAnswer(t, br, "HEAD")
		require.EqualValues(t, len(big), res.ContentLength)
	}
	require.EqualValues(t, 21, f.Stats().Requests)
	require.Zero(t, f.Stats().HandedOver)
	require.EqualValues(t, 1, b.Stats().Backends[0].Dials)
	require.EqualValues(t, 21, b.Stats().Requests)
	// the answer is out before the request is over
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, lbtest.WaitFor, lbtest.Pause)

	// What is large or chunked is net/http's, on the same connection, which then ends.
	io.WriteString(c, fmt.Sprintf("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(big), big))
	res, body := readAnswer(t, br, "PUT")
	require.True(t, big == body)
	require.True(t, res.Close)
	require.EqualValues(t, 1, f.Stats().HandedOver)
}

func TestFrontTimeouts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	stall := make(chan struct{})
	e, _ := lbtest.Serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
		}
		if r.URL.Path != "/" {
			select {
			case <-stall:
			case <-r.Context().Done():
			}
		}
	})
	defer close(stall)
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{
		Timeouts: lb.Timeouts{Header: 500 * time.Millisecond, Idle: 500 * time.Millisecond}, Retry: lb.Retry{Max: -1}})
	f, addr := serve(t, b, front.Options{HeaderTimeout: 500 * time.Millisecond,
		IdleTimeout: 500 * time.Millisecond})
	ended := func(c net.Conn, br *bufio.Reader) {
		t.Helper()
		rest, err := io.ReadAll(br)
		var nerr net.Error
		require.False(t, errors.As(err, &nerr) && nerr.Timeout(), "the connection stayed open")
		require.Empty(t, rest)
	}
	ask := func(request string) (net.Conn, *bufio.Reader) {
		c, br := dial(t, addr)
		io.WriteString(c, request)
		return c, br
	}
	t.Run("limits", func(t *testing.T) {
		for name, request := range map[string]string{"no byte": "", "half a head": "GET / HTTP/1.1\r\nHos",
			"half a body":          "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe",
			"between two requests": "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, br := ask(request)
				if name == "between two requests" {
					readAnswer(t, br, "GET")
				}
				ended(c, br)
			})
		}
		t.Run("no answer", func(t *testing.T) {
			t.Parallel()
			_, br := ask("GET /stall HTTP/1.1\r\nHost: a\r\n\r\n")
			res, _ := readAnswer(t, br, "GET")
			require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
		})
		t.Run("half an answer", func(t *testing.T) {
			t.Parallel()
			_, br := ask("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			_, err = io.ReadAll(res.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	})
	require.GreaterOrEqual(t, f.Stats().Expired, uint64(6))
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, lbtest.WaitFor, lbtest.Pause)
}

func TestFrontRefuses(t *testing.T) {
	e, _ := lbtest.Serve(t, "", func(http.ResponseWriter, *http.Request) {})
	f, addr := serve(t, lbtest.New(t, []lb.Endpoint{e}, lb.Options{}),
		front.Options{MaxHeaderBytes: 8 << 10, Proxy: lb.ProxyOptions{MaxBody: 10}})
	for req, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n": 400,
		"GET / HTTP/1.1\r\n\r\n":                     400,
		"GET / HTTP/1.1\nHost: a\n\n":                400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
		"GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("b", 20<<10) + "\r\n\r\n":                    431,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world":                            413,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                               400,
	} {
		c, br := dial(t, addr)
		io.WriteString(c, req)
		res, _ := readAnswer(t, br, "GET")
		require.Equal(t, want, res.StatusCode, req)
		if want != 413 {
			require.True(t, res.Close)
			_, err := br.ReadByte()
			require.Error(t, err)
		}
		c.Close()
	}
	require.EqualValues(t, 6, f.Stats().Refused)
}

func TestFrontRetriesAndErrors(t *testing.T) {
	good, _ := lbtest.Serve(t, "good", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	bad := lbtest.Backend(t, func(n int, c net.Conn, br *bufio.Reader) { http.ReadRequest(br) })
	bad.ID = "bad"
	b := lbtest.New(t, []lb.Endpoint{good, bad},
		lb.Options{Policy: policy.RoundRobin(), Outlier: lb.Outlier{Disabled: true}, Retry: lb.Retry{Budget: -1}})
	_, addr := serve(t, b, front.Options{Proxy: lb.ProxyOptions{
		Error: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, "sorry "+r.URL.Path, http.StatusBadGateway)
		}}})
	c, br := dial(t, addr)
	for range 10 {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, body := readAnswer(t, br, "GET")
		require.Equal(t, "200 ok", fmt.Sprint(res.StatusCode, " ", body))
	}
	require.Positive(t, b.Stats().Retries)
	seen := map[string]int{}
	for range 10 {
		io.WriteString(c, "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
		res, body := readAnswer(t, br, "POST")
		seen[fmt.Sprint(res.StatusCode, " ", body)]++
	}
	require.Len(t, seen, 2, "an ambiguous POST is not sent again: %v", seen)
	require.Positive(t, seen["502 sorry /p\n"])
}

func TestFrontOptionsThatNeedARequest(t *testing.T) {
	var es []lb.Endpoint
	for _, id := range []string{"a", "b", "c"} {
		e, _ := lbtest.Serve(t, id, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, id+" "+r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Forwarded-Proto"))
		})
		es = append(es, e)
	}
	b := lbtest.New(t, es, lb.Options{Policy: policy.Maglev(), Key: lb.KeyHeader("X-Key")})
	f, addr := serve(t, b, front.Options{Proxy: lb.ProxyOptions{Sticky: &lb.Sticky{},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	c, br := dial(t, addr)
	ask := func(fields string) (*http.Response, string) {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n"+fields+"\r\n")
		return readAnswer(t, br, "GET")
	}
	ids := map[string]bool{}
	for i := range 20 {
		res, first := ask(fmt.Sprintf("X-Key: %d\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n", i))
		require.Equal(t, " 198.51.100.7, 127.0.0.1 https", first[1:])
		_, again := ask(fmt.Sprintf("X-Key: %d\r\n", i))
		require.Equal(t, first[0], again[0], "the key decides")
		ids[first[:1]] = true
		cookie := res.Cookies()[0]
		res, bound := ask(fmt.Sprintf("X-Key: %d\r\nCookie: %s=%s\r\n", i+1, cookie.Name, cookie.Value))
		require.Equal(t, first[0], bound[0], "the cookie decides before the key")
		require.Empty(t, res.Cookies())
	}
	require.Len(t, ids, 3)
	require.Zero(t, f.Stats().HandedOver)
}

// A front is under the balancer's adaptive limit as the handler is, and leaves requests that may be hedged to it.
func TestFrontLimitsAndHedges(t *testing.T) {
	entered, release := make(chan struct{}, 9), make(chan struct{})
	e, _ := lbtest.Serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
	})
	defer close(release)
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{
		Adaptive: &lb.Adaptive{Initial: 1, Min: 1, Max: 1, Queue: -1, Priority: func(r *http.Request) int {
			if r.Header.Get("X-First") != "" {
				return 1
			}
			return 0
		}}})
	_, addr := serve(t, b, front.Options{})
	slow, _ := dial(t, addr)
	io.WriteString(slow, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	c, br := dial(t, addr)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	res, _ := readAnswer(t, br, "GET")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	require.EqualValues(t, 1, b.Stats().Shed)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX-First: 1\r\n\r\n")
	<-entered // above the limit, by its priority

	h := lbtest.New(t, []lb.Endpoint{e}, lb.Options{Hedge: lb.Hedge{After: time.Minute}})
	f, addr := serve(t, h, front.Options{})
	c, _ = dial(t, addr)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	require.EqualValues(t, 1, f.Stats().HandedOver)
}

func TestFrontHandsOver(t *testing.T) {
	var mu sync.Mutex
	protos := map[string]bool{}
	h2 := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		protos[r.Proto] = true
		mu.Unlock()
		io.WriteString(w, "h2")
	}))
	h2.EnableHTTP2 = true
	h2.StartTLS()
	defer h2.Close()
	plain, s := lbtest.Serve(t, "plain", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "plain") })
	b := lbtest.New(t, []lb.Endpoint{plain}, lb.Options{
		TLS: h2.Client().Transport.(*http.Transport).TLSClientConfig.Clone()})
	f, addr := serve(t, b, front.Options{})
	c, br := dial(t, addr)
	ask := func() string {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, body := readAnswer(t, br, "GET")
		return body
	}
	require.Equal(t, "plain", ask())
	require.NoError(t, b.Update([]lb.Endpoint{{Addr: strings.TrimPrefix(h2.URL, "https://"), Scheme: "https"}}))
	s.CloseClientConnections()
	require.Equal(t, "h2", ask(), "a backend that the front does not speak with")
	require.True(t, protos["HTTP/2.0"])
	require.EqualValues(t, 1, f.Stats().HandedOver)

	// TLS ends at net/http.
	require.NoError(t, b.Update([]lb.Endpoint{plain}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go f.Serve(tls.NewListener(l, &tls.Config{Certificates: h2.TLS.Certificates}))
	res, err := h2.Client().Get("https://" + l.Addr().String())
	require.NoError(t, err)
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	require.Equal(t, "plain", string(body))
}

func TestFrontShutdown(t *testing.T) {
	begun, proceed := make(chan struct{}, 2), make(chan struct{})
	e, _ := lbtest.Serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- struct{}{}
			<-proceed
		}
		io.WriteString(w, "ok")
	})
	f, addr := serve(t, lbtest.New(t, []lb.Endpoint{e}, lb.Options{}), front.Options{})
	idle, idleReader := dial(t, addr)
	io.WriteString(idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	readAnswer(t, idleReader, "GET")
	busy, busyReader := dial(t, addr)
	io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	handed, handedReader := dial(t, addr)
	io.WriteString(handed, "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	<-begun
	<-begun
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, f.Shutdown(short), context.DeadlineExceeded)
	_, err := idleReader.ReadByte()
	require.Error(t, err, "an idle connection is closed at once")
	_, err = net.Dial("tcp", addr)
	require.Error(t, err)
	close(proceed)
	res, body := readAnswer(t, busyReader, "GET")
	require.Equal(t, "ok", body)
	require.True(t, res.Close)
	_, body = readAnswer(t, handedReader, "POST")
	require.Equal(t, "ok", body)
	long, cancel := context.WithTimeout(t.Context(), lbtest.WaitFor)
	defer cancel()
	require.NoError(t, f.Shutdown(long))
	require.Zero(t, f.Stats().Connections)
	require.NoError(t, f.Close())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, f.Serve(l), http.ErrServerClosed)
}

func TestFrontSurvivesAPanic(t *testing.T) {
	e, _ := lbtest.Serve(t, "", func(http.ResponseWriter, *http.Request) {})
	var text bytes.Buffer
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{Key: func(r *http.Request, _ netip.Addr) (uint64, bool) {
		if r.URL.Path == "/panic" {
			panic("at the disco")
		}
		return 0, false
	}})
	f, addr := serve(t, b, front.Options{ErrorLog: log.New(&text, "", 0)})
	c, br := dial(t, addr)
	io.WriteString(c, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n")
	_, err := br.ReadByte()
	require.Error(t, err)
	c, br = dial(t, addr)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	readAnswer(t, br, "GET")
	require.NoError(t, f.Close())
	require.Contains(t, text.String(), "at the disco")
}

func TestFrontOptions(t *testing.T) {
	b := lbtest.New(t, nil, lb.Options{})
	_, err := front.New(b, front.Options{MaxHeaderBytes: -1})
	require.ErrorContains(t, err, "MaxHeaderBytes")
	f, err := front.New(b, front.Options{})
	require.NoError(t, err)
	require.NoError(t, f.Close(), "never served")
	require.NoError(t, f.Close())
	_, addr := serve(t, b, front.Options{})
	c, br := dial(t, addr)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	res, _ := readAnswer(t, br, "GET")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
}

// hangs is a backend that answers nothing and counts the requests that were canceled.
type hangs struct{ canceled atomic.Int64 }

func (h *hangs) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	<-r.Context().Done()
	h.canceled.Add(1)
}

// A front leaves requests that may be hedged to net/http, whatever the backends speak.
func TestFrontHedges(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fast ", r.Proto) }
	plain := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for scheme, addr := range map[string]string{"h2c": plain.Listener.Addr().String(),
		"https": secure.Listener.Addr().String(), "http": plain.Listener.Addr().String()} {
		h := &hangs{}
		slow, _ := lbtest.Serve(t, "a", h.ServeHTTP)
		b := lbtest.New(t, []lb.Endpoint{slow, {ID: "b", Addr: addr, Scheme: scheme}}, lb.Options{
			Policy: policy.RoundRobin(), // begins with the slow one
			Hedge:  lb.Hedge{After: 5 * time.Millisecond},
			TLS:    secure.Client().Transport.(*http.Transport).TLSClientConfig})
		_, at := serve(t, b, front.Options{})
		c, br := dial(t, at)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, got := readAnswer(t, br, "GET")
		proto := "HTTP/2.0"
		if scheme == "http" {
			proto = "HTTP/1.1"
		}
		require.Equal(t, "fast "+proto, got, scheme)
		require.Eventually(t, func() bool { return h.canceled.Load() == 1 }, lbtest.WaitFor, lbtest.Pause,
			"the loser is canceled")
	}
}
