package lb

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func TestProxyPassesRequestAndAnswer(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(400)
			return
		}
		w.Header()["X-Multi"] = []string{"a", "b"}
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.Host, " ", len(body), " ",
			r.ContentLength))
		w.Header().Set("Keep-Alive", "timeout=5")
		switch r.URL.Path {
		case "/big":
			w.Write(big)
		case "/chunked":
			w.Write([]byte("one"))
			w.(http.Flusher).Flush()
			w.Write([]byte("two"))
		case "/none":
			w.WriteHeader(204)
		case "/notype":
			w.Header()["Content-Type"] = nil
			w.Write([]byte("<html>"))
		default:
			w.Write(body)
		}
	})
	b := newBalancer(t, []Endpoint{e}, Options{})
	url, c := front(t, b)
	do := func(method, path string, body io.Reader) (*http.Response, string) {
		req, err := http.NewRequest(method, url+path, body)
		require.NoError(t, err)
		req.Host = "site.example"
		req.Header.Set("Connection", "X-Private")
		req.Header.Set("X-Private", "hop")
		res, err := c.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		out, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res, string(out)
	}
	for range 3 { // the same connections again
		res, _ := do("GET", "/a%2Fb?q=1&r=%20", nil)
		require.Equal(t, "GET /a%2Fb?q=1&r=%20 site.example 0 0", res.Header.Get("X-Seen"))
		require.Equal(t, []string{"a", "b"}, res.Header["X-Multi"])
		require.Empty(t, res.Header.Get("Keep-Alive"))
		_, out := do("POST", "/", strings.NewReader("small"))
		require.Equal(t, "small", out)
		res, out = do("POST", "/", bytes.NewReader(big))
		require.Equal(t, len(big), len(out))
		require.Contains(t, res.Header.Get("X-Seen"), " 1048576 1048576")
		res, out = do("PUT", "/", io.MultiReader(strings.NewReader("no"), strings.NewReader("length")))
		require.Equal(t, "nolength", out)
		require.Contains(t, res.Header.Get("X-Seen"), " 8 -1")
		_, out = do("GET", "/big", nil)
		require.Equal(t, string(big), out)
		_, out = do("GET", "/chunked", nil)
		require.Equal(t, "onetwo", out)
		res, _ = do("GET", "/none", nil)
		require.Equal(t, 204, res.StatusCode)
		_, out = do("HEAD", "/big", nil)
		require.Empty(t, out)
		res, _ = do("GET", "/notype", nil)
		require.Empty(t, res.Header["Content-Type"], "no type is guessed")
	}
	st := b.Stats()
	noneInFlight(t, b)
	require.LessOrEqual(t, st.Backends[0].Dials, uint64(6), "connections are used again")
}

func TestForwardedHeaders(t *testing.T) {
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
			"Forwarded", "X-Real-Ip"} {
			w.Header().Set("Got-"+k, strings.Join(r.Header[k], "|"))
		}
	})
	ask := func(o ProxyOptions) http.Header {
		url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}), o)
		req, _ := http.NewRequest("GET", url, nil)
		req.Host = "site.example"
		req.Header.Set("X-Forwarded-For", "198.51.100.7")
		req.Header.Set("X-Forwarded-Proto", "https")
		req.Header.Set("X-Forwarded-Port", "443")
		req.Header.Set("X-Real-IP", "1.1.1.1")
		req.Header.Set("Forwarded", "for=1.1.1.1")
		res, err := c.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		return res.Header
	}
	h := ask(ProxyOptions{})
	require.Equal(t, "127.0.0.1", h.Get("Got-X-Forwarded-For"),
		"a stranger's word is not passed on, on loopback neither")
	require.Equal(t, "http", h.Get("Got-X-Forwarded-Proto"))
	require.Equal(t, "site.example", h.Get("Got-X-Forwarded-Host"))
	require.Empty(t, h.Get("Got-X-Forwarded-Port")+h.Get("Got-Forwarded")+h.Get("Got-X-Real-Ip"))
	h = ask(ProxyOptions{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	require.Equal(t, "198.51.100.7, 127.0.0.1", h.Get("Got-X-Forwarded-For"))
	require.Equal(t, "https", h.Get("Got-X-Forwarded-Proto"))
	require.Equal(t, "443", h.Get("Got-X-Forwarded-Port"))
}

func TestInformationalAndTrailers(t *testing.T) {
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.Header().Del("Connection")
		w.Header().Del("X-Hop")
		w.Header().Set("Trailer", "X-Sum")
		w.Write([]byte("body"))
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	var early textproto.MIMEHeader
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error { early = h; return nil },
	}), "GET", url, nil)
	res, err := c.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "body", string(body))
	require.Equal(t, "</a.css>; rel=preload", early.Get("Link"))
	require.Empty(t, early.Get("X-Hop"))
	require.Empty(t, res.Header.Get("Link"))
	require.Equal(t, "42", res.Trailer.Get("X-Sum"))
	require.Equal(t, "43", res.Trailer.Get("X-Late"))
}

func TestStreamsAreFlushed(t *testing.T) {
	next := make(chan bool)
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for range next {
			fmt.Fprint(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	res, err := c.Get(url) // returns although no byte of the body was sent
	require.NoError(t, err)
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for range 3 {
		next <- true
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: x\n", line)
		br.ReadString('\n')
	}
	close(next)
}

func TestCancelReachesTheBackend(t *testing.T) {
	began, ended := make(chan bool), make(chan bool)
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	b := newBalancer(t, []Endpoint{e}, Options{})
	url, c := front(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	go func() { <-began; cancel() }()
	_, err := c.Do(req)
	require.Error(t, err)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the backend was not told")
	}
	require.Zero(t, b.Stats().Backends[0].Failures, "not the backend's fault")
}

func TestUpgradeKeepsEarlyBytes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil || req.Header.Get("Upgrade") != "echo" {
			return
		}
		// with the head
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
		io.Copy(c, br)
	}()
	s := httptest.NewServer(handlerOf(t, newBalancer(t, []Endpoint{{Addr: l.Addr().String()}}, Options{})))
	defer s.Close()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer c.Close()
	// before the 101
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	io.WriteString(c, "late")
	c.(*net.TCPConn).CloseWrite()
	all, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, "hello early late", string(all))
}

func TestExpectContinueSavesARefusedBody(t *testing.T) {
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(413)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	url, _ := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	talk := func(path string) (sent bool, status int) {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", path)
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		if res.StatusCode == 100 {
			io.WriteString(c, "12345")
			res, err = http.ReadResponse(br, nil)
			require.NoError(t, err)
			sent = true
		}
		return sent, res.StatusCode
	}
	sent, status := talk("/refuse")
	require.False(t, sent)
	require.Equal(t, 413, status)
	sent, status = talk("/take")
	require.True(t, sent)
	require.Equal(t, 200, status)
}

// fakeBackend answers each connection's requests by script.
func fakeBackend(t testing.TB, each func(n int, c net.Conn, br *bufio.Reader)) Endpoint {
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
	return Endpoint{Addr: l.Addr().String()}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// A backend that closes idle connections must not cost a request, and never have a POST sent twice.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	var posts, ends atomic.Int64
	// one request per connection, then an unannounced end
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		defer ends.Add(1)
		defer c.Close()
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		if r.Method == "POST" {
			posts.Add(1)
		}
		io.WriteString(c, ok)
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	for i := range 100 {
		if i%2 == 0 {
			get(t, c, url)
		} else {
			eventually(t, func() bool {
				return ends.Load() == int64(i)
			}, "the end is sent; without it an ambiguous POST may be a 502")
			res, err := c.Post(url, "text/plain", strings.NewReader("x"))
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, 200, res.StatusCode)
		}
	}
	require.EqualValues(t, 50, posts.Load())
}

func TestRetryOnAnotherHost(t *testing.T) {
	var hits [2]atomic.Int64
	broken := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) { // reads the request and dies
		if r, err := http.ReadRequest(br); err == nil {
			io.Copy(io.Discard, r.Body)
			hits[0].Add(1)
		}
	})
	good, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		hits[1].Add(1)
		fmt.Fprint(w, "ok", string(body))
	})
	dead := Endpoint{Addr: "127.0.0.1:1"}
	url, c := front(t, newBalancer(t, []Endpoint{broken, good, dead},
		Options{Policy: inTurn{}, Outlier: Outlier{Disabled: true}}))
	for range 12 {
		_, body := get(t, c, url)
		require.Equal(t, "ok", body)
		req, _ := http.NewRequest("PUT", url, strings.NewReader("put"))
		res, err := c.Do(req)
		require.NoError(t, err)
		all, _ := io.ReadAll(res.Body)
		res.Body.Close()
		require.Equal(t, "okput", string(all), "the body is sent again")
	}
	hits[0].Store(0)
	hits[1].Store(0)
	bad := 0
	for range 30 {
		res, err := c.Post(url, "text/plain", strings.NewReader("x"))
		require.NoError(t, err)
		res.Body.Close()
		if res.StatusCode == 502 {
			bad++
		}
	}
	require.EqualValues(t, bad, hits[0].Load(), "an ambiguous POST is a 502")
	require.EqualValues(t, 30-bad, hits[1].Load(), "and is never sent twice; to a dead host it was not sent at all")
	require.Less(t, bad, 30)
	req, _ := http.NewRequest("POST", url, strings.NewReader("x"))
	req.Header.Set("Idempotency-Key", "1")
	for range 6 {
		req.Body = io.NopCloser(strings.NewReader("x"))
		res, err := c.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 200, res.StatusCode)
	}
}

func TestRetryStatusesAndBudget(t *testing.T) {
	t.Parallel()
	sick, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	good, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) {})
	o := Options{Policy: inTurn{}, Outlier: Outlier{Disabled: true}, Retry: Retry{Statuses: []int{503}}}
	url, c := front(t, newBalancer(t, []Endpoint{sick, good}, o))
	for range 10 {
		res, _ := get(t, c, url)
		require.Equal(t, 200, res.StatusCode)
	}
	all := newBalancer(t, []Endpoint{{Addr: "127.0.0.1:1"}, {Addr: "127.0.0.1:2"}, {Addr: "127.0.0.1:3"}},
		Options{Dial: unreachable, Retry: Retry{Budget: 0.1}})
	url, c = front(t, all)
	for range 300 {
		res, _ := get(t, c, url)
		require.Equal(t, 502, res.StatusCode)
	}
	st := all.Stats()
	require.LessOrEqual(t, st.Retries, uint64(300*0.1+100))
	require.NotZero(t, st.NoRetry)
}

func TestErrorsAndTimeouts(t *testing.T) {
	t.Parallel()
	hang := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) { io.Copy(io.Discard, br) })
	url, c := front(t, newBalancer(t, []Endpoint{hang}, Options{Timeouts: Timeouts{Header: 50 * time.Millisecond}}))
	res, _ := get(t, c, url)
	require.Equal(t, 504, res.StatusCode)
	url, c = front(t, newBalancer(t, nil, Options{}))
	res, _ = get(t, c, url)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	e, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	url, c = front(t, newBalancer(t, []Endpoint{e}, Options{}), ProxyOptions{MaxBody: 10})
	for _, body := range []io.Reader{strings.NewReader("12345678901"),
		io.MultiReader(strings.NewReader("12345678901"))} {
		res, err := c.Post(url, "", body)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 413, res.StatusCode)
	}
	refused := newBalancer(t, []Endpoint{e}, Options{AllowedNets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	url, c = front(t, refused)
	res, _ = get(t, c, url)
	require.Equal(t, 502, res.StatusCode, "a backend outside of the allowed networks")
}

func TestMalformedAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"no status":        "HTTP/1.1\r\n\r\n",
		"two lengths":      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"negative length":  "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
		"unknown coding":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"blank in name":    "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
		"folded":           "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
		"control in value": "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
		"endless head":     "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 300<<10) + "\r\n\r\n",
		"not asked for":    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	} {
		e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(c, answer)
			}
		})
		url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
		res, _ := get(t, c, url)
		require.Equal(t, 502, res.StatusCode, name)
		require.Empty(t, res.Header.Get("X"), name)
	}
	// a large head that is fine
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 60<<10)+"\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	for range 3 {
		res, body := get(t, c, url)
		require.Len(t, res.Header.Get("X"), 60<<10)
		require.Equal(t, "ok", body)
	}
}

func TestShortBodyIsCutOff(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 500000),
	} {
		e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(c, answer)
			}
		})
		b := newBalancer(t, []Endpoint{e}, Options{})
		url, c := front(t, b)
		res, err := c.Get(url)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		require.Error(t, err, "the client must see that the answer is incomplete")
		require.EqualValues(t, 1, b.Stats().Backends[0].Failures)
	}
}

func TestLengthAndChunkedTogether(t *testing.T) {
	var conns atomic.Int64
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		conns.Add(1)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
		}
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	for range 2 {
		res, body := get(t, c, url)
		require.Equal(t, "ok", body)
		require.NotEqual(t, "3", res.Header.Get("Content-Length"))
	}
	require.EqualValues(t, 2, conns.Load(), "such a connection is not used again")
}

func TestEarlyAnswerToAStreamedBody(t *testing.T) {
	told, answered := make(chan struct{}), make(chan struct{})
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil { // the body is not read
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			close(told)
			<-answered // closing with bytes unread resets the connection, and may take the answer with it
		}
	})
	url, c := front(t, newBalancer(t, []Endpoint{e}, Options{}))
	pr, pw := io.Pipe()
	defer pw.Close()
	// sends on until there is an answer; one who went on for half a second more would find its connection reset
	go func() {
		for {
			select {
			case <-told:
				return
			default:
			}
			if _, err := pw.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	}()
	req, _ := http.NewRequest("POST", url, pr)
	res, err := c.Do(req)
	close(answered)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, 413, res.StatusCode)
}

func TestStickyCookie(t *testing.T) {
	var es []Endpoint
	for _, id := range []string{"a", "b", "c"} {
		e, _ := serve(t, id, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/public" {
				w.Header().Set("Cache-Control", "public, max-age=60")
			}
			fmt.Fprint(w, id)
		})
		es = append(es, e)
	}
	b := newBalancer(t, es, Options{Policy: inTurn{}})
	url, c := front(t, b, ProxyOptions{
		Sticky: &Sticky{Keys: []StickyKey{{ID: "1", Secret: bytes.Repeat([]byte("k"), 32)}}}})
	res, first := get(t, c, url)
	require.Len(t, res.Cookies(), 1)
	cookie := res.Cookies()[0]
	require.True(t, cookie.HttpOnly)
	ask := func(value string) (*http.Response, string) {
		req, _ := http.NewRequest("GET", url, nil)
		req.AddCookie(&http.Cookie{Name: "lb", Value: value})
		res, err := c.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res, string(body)
	}
	for range 5 {
		res, body := ask(cookie.Value)
		require.Equal(t, first, body)
		require.Empty(t, res.Cookies(), "nothing new to say")
	}
	res, _ = ask(cookie.Value[:len(cookie.Value)-2] + "AA")
	require.Len(t, res.Cookies(), 1, "a forged cookie binds nobody")
	require.NoError(t, b.Drain(t.Context(), first))
	res, other := ask(cookie.Value)
	require.NotEqual(t, first, other)
	require.Len(t, res.Cookies(), 1, "bound anew")
	res, _ = get(t, c, url+"/public")
	require.Empty(t, res.Cookies(), "an answer for shared caches carries no cookie")
}

func TestRoundTripper(t *testing.T) {
	var es []Endpoint
	for _, id := range []string{"a", "b"} {
		e, _ := serve(t, id, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, id, r.Host, string(body))
		})
		es = append(es, e)
	}
	b := newBalancer(t, append(es, Endpoint{Addr: "127.0.0.1:1"}),
		Options{Policy: PowerOfTwo(), Outlier: Outlier{Disabled: true}})
	rt := b.RoundTripper(nil)
	c := &http.Client{Transport: rt}
	defer c.CloseIdleConnections()
	seen := map[string]int{}
	for range 30 {
		res, body := get(t, c, "http://site.example/x")
		require.Equal(t, 200, res.StatusCode)
		seen[body]++
		res2, err := c.Post("http://site.example/x", "", strings.NewReader("post"))
		require.NoError(t, err)
		res2.Body.Close()
	}
	require.Len(t, seen, 2)
	require.NotZero(t, seen["asite.example"])
	noneInFlight(t, b)
	none := newBalancer(t, nil, Options{})
	_, err := none.RoundTripper(http.DefaultTransport).RoundTrip(httptest.NewRequest("GET", "http://x/", nil))
	require.ErrorIs(t, err, ErrNoBackend)
}

func TestHTTP2Backends(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Proto, " ", r.Header.Get("X-Forwarded-For"), " ", string(body))
		w.Header().Set("Grpc-Status", "0")
	})
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	tls := httptest.NewUnstartedServer(h)
	tls.EnableHTTP2 = true
	tls.StartTLS()
	defer tls.Close()
	for _, e := range []Endpoint{
		{Addr: s.Listener.Addr().String(), Scheme: "h2c"}, {Addr: tls.Listener.Addr().String(), Scheme: "https"},
	} {
		b := newBalancer(t, []Endpoint{e}, Options{TLS: tls.Client().Transport.(*http.Transport).TLSClientConfig,
			Health: Health{}})
		url, c := front(t, b)
		res, err := c.Post(url, "", strings.NewReader("ping"))
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "HTTP/2.0 127.0.0.1 ping", string(body))
		require.Equal(t, "0", res.Trailer.Get("Grpc-Status"))
	}
}

func TestAdmin(t *testing.T) {
	b := newBalancer(t, endpoints(2), Options{})
	ask := func(h http.Handler, method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	yes := b.AdminHandler(func(*http.Request) bool { return true })
	require.Contains(t, ask(yes, "GET", "/").Body.String(), `"id":"b00"`)
	require.Equal(t, 403, ask(b.AdminHandler(nil), "POST", "/drain?id=b00").Code)
	require.Equal(t, 204, ask(yes, "POST", "/drain?id=b00").Code)
	require.Equal(t, StateDraining, b.Backends()[0].State())
	require.Equal(t, 204, ask(yes, "POST", "/undrain?id=b00").Code)
	require.Equal(t, 404, ask(yes, "POST", "/drain?id=x").Code)
}

func TestBudgetErrorIsJoined(t *testing.T) {
	require.True(t, unsentError(&net.OpError{Op: "dial", Err: errors.New("x")}))
	require.False(t, unsentError(io.EOF))
}
