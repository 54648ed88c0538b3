package cdn

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/race"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CDN_CRASH_DIR"); dir != "" {
		fillUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func newCache(t testing.TB, o Options) *Cache {
	t.Helper()
	c, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// site is a scripted origin that counts its requests.
type site struct {
	mu   sync.Mutex
	hits int
	last http.Header
	h    http.HandlerFunc
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.hits++
	s.last = r.Header.Clone()
	h := s.h
	s.mu.Unlock()
	h(w, r)
}

func (s *site) set(h http.HandlerFunc) { s.mu.Lock(); s.h = h; s.mu.Unlock() }

func (s *site) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.hits }

// reply makes an origin that answers with these header lines and this body.
func reply(status int, body string, lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, l := range lines {
			k, v, _ := strings.Cut(l, ": ")
			w.Header().Add(k, v)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func do(h http.Handler, method, url string, lines ...string) *http.Response {
	r := httptest.NewRequest(method, url, nil)
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ": ")
		r.Header.Add(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(res *http.Response) string {
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

func ago(d time.Duration) string { return time.Now().Add(-d).UTC().Format(http.TimeFormat) }

// The rules of RFC 9111 section 3 and 4: each case is two requests to a fresh cache; hits is how often the origin is
// asked.
func TestStoreAndReuse(t *testing.T) {
	old := "Last-Modified: " + ago(100*24*time.Hour)
	for _, c := range []struct {
		name   string
		status int
		origin []string
		first  []string
		second []string
		hits   int
	}{
		{"max-age", 200, []string{"Cache-Control: max-age=60"}, nil, nil, 1},
		{"max-age=0", 200, []string{"Cache-Control: max-age=0"}, nil, nil, 2},
		{"s-maxage wins over max-age", 200, []string{"Cache-Control: max-age=0, s-maxage=60"}, nil, nil, 1},
		{"s-maxage=0 wins too", 200, []string{"Cache-Control: s-maxage=0, max-age=60"}, nil, nil, 2},
		{"the lower of two", 200, []string{"Cache-Control: max-age=60, max-age=0"}, nil, nil, 2},
		{"malformed max-age is stale", 200, []string{"Cache-Control: max-age=6x"}, nil, nil, 2},
		{"quoted", 200, []string{`Cache-Control: max-age="60"`}, nil, nil, 1},
		{"case", 200, []string{"Cache-Control: MaX-aGe=60"}, nil, nil, 1},
		{"two lines", 200, []string{"Cache-Control: foo", "Cache-Control: max-age=60"}, nil, nil, 1},
		{"comma within quotes", 200, []string{`Cache-Control: x="a, max-age=60", max-age=0`}, nil, nil, 2},
		{"Expires", 200, []string{"Expires: " + ago(-time.Hour)}, nil, nil, 1},
		{"Expires in the past", 200, []string{"Expires: " + ago(time.Hour)}, nil, nil, 2},
		{"Expires malformed", 200, []string{"Expires: 0", old}, nil, nil, 2},
		{"Expires twice", 200, []string{"Expires: " + ago(-time.Hour), "Expires: " + ago(-time.Hour)}, nil, nil, 2},
		{"max-age wins over Expires", 200, []string{"Expires: " + ago(-time.Hour), "Cache-Control: max-age=0"}, nil,
			nil, 2},
		{"heuristic", 200, []string{old}, nil, nil, 1},
		{"heuristic 404", 404, []string{old}, nil, nil, 1},
		{"no heuristic for 201", 201, []string{old}, nil, nil, 2},
		{"no heuristic for somebody known", 200, []string{old}, []string{"Cookie: a=b"}, []string{"Cookie: a=b"}, 2},
		{"nothing said", 200, nil, nil, nil, 2},
		{"Age counts", 200, []string{"Cache-Control: max-age=60", "Age: 61"}, nil, nil, 2},
		{"Date counts", 200, []string{"Cache-Control: max-age=60", "Date: " + ago(2*time.Minute)}, nil, nil, 2},
		{"no-store", 200, []string{"Cache-Control: no-store, max-age=60"}, nil, nil, 2},
		{"must-understand", 200, []string{"Cache-Control: must-understand, no-store, max-age=60"}, nil, nil, 1},
		{"must-understand, not understood", 299, []string{"Cache-Control: must-understand, no-store, max-age=60"}, nil,
			nil, 2},
		{"private", 200, []string{"Cache-Control: private, max-age=60"}, nil, nil, 2},
		{"no-cache", 200, []string{"Cache-Control: no-cache, max-age=60"}, nil, nil, 2},
		{"no-cache of a field", 200, []string{`Cache-Control: no-cache="x-secret", max-age=60`, "X-Secret: 1"}, nil,
			nil, 1},
		{"explicit 500", 500, []string{"Cache-Control: max-age=60"}, nil, nil, 1},
		{"explicit 302", 302, []string{"Cache-Control: max-age=60", "Location: /x"}, nil, nil, 1},
		{"request no-store", 200, []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: no-store"}, nil, 2},
		{"request no-cache", 200, []string{"Cache-Control: max-age=60"}, nil, []string{"Cache-Control: no-cache"}, 2},
		{"request pragma", 200, []string{"Cache-Control: max-age=60"}, nil, []string{"Pragma: no-cache"}, 2},
		{"request max-age=0", 200, []string{"Cache-Control: max-age=60", "Age: 1"}, nil,
			[]string{"Cache-Control: max-age=0"}, 2},
		{"request min-fresh", 200, []string{"Cache-Control: max-age=60"}, nil, []string{"Cache-Control: min-fresh=90"},
			2},
		{"request max-stale", 200, []string{"Cache-Control: max-age=60", "Age: 90"}, nil,
			[]string{"Cache-Control: max-stale=60"}, 1},
		{"request max-stale, must-revalidate", 200, []string{"Cache-Control: max-age=60, must-revalidate", "Age: 90"},
			nil, []string{"Cache-Control: max-stale"}, 2},
		{"authorization", 200, []string{"Cache-Control: max-age=60"}, []string{"Authorization: x"},
			[]string{"Authorization: x"}, 2},
		{"authorization, public", 200, []string{"Cache-Control: max-age=60, public"}, []string{"Authorization: x"}, nil,
			1},
		{"set-cookie", 200, []string{"Cache-Control: max-age=60", "Set-Cookie: a=b"}, nil, nil, 2},
		{"set-cookie, public", 200, []string{"Cache-Control: max-age=60, public", "Set-Cookie: a=b"}, nil, nil, 1},
		{"vary same", 200, []string{"Cache-Control: max-age=60", "Vary: X-A"}, []string{"X-A: 1"}, []string{"X-A: 1"},
			1},
		{"vary differs", 200, []string{"Cache-Control: max-age=60", "Vary: X-A"}, []string{"X-A: 1"},
			[]string{"X-A: 2"}, 2},
		{"vary absent differs from empty", 200, []string{"Cache-Control: max-age=60", "Vary: X-A"}, nil,
			[]string{"X-A: "}, 2},
		{"vary *", 200, []string{"Cache-Control: max-age=60", "Vary: *"}, nil, nil, 2},
		{"vary normalized", 200, []string{"Cache-Control: max-age=60", "Vary: Accept-Encoding"},
			[]string{"Accept-Encoding: gzip, BR"}, []string{"Accept-Encoding: br,gzip"}, 1},
		{"vary lines joined", 200, []string{"Cache-Control: max-age=60", "Vary: X-A"}, []string{"X-A: 1, 2"},
			[]string{"X-A: 1", "X-A: 2"}, 1},
		{"CDN-Cache-Control wins", 200, []string{"Cache-Control: no-store", "CDN-Cache-Control: max-age=60"}, nil, nil,
			1},
		{"CDN-Cache-Control malformed is ignored", 200,
			[]string{"Cache-Control: no-store", "CDN-Cache-Control: max-age=60, &"}, nil, nil, 2},
		{"CDN-Cache-Control over Expires", 200, []string{"Expires: " + ago(-time.Hour), "CDN-Cache-Control: foo"}, nil,
			nil, 2},
		{"query is part of the key", 200, []string{"Cache-Control: max-age=60"}, nil, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := newCache(t, Options{HitForMiss: -1, StaleIfError: -1})
			s := &site{h: reply(c.status, "body", c.origin...)}
			h := cache.Handler(s)
			a := do(h, "GET", "http://a.example/x?q", c.first...)
			require.Equal(t, "body", text(a))
			b := do(h, "GET", "http://a.example/x?q", c.second...)
			require.Equal(t, "body", text(b))
			require.Equal(t, c.status, b.StatusCode)
			require.Equal(t, c.hits, s.count(), b.Header.Get("Cache-Status"))
			if c.hits == 1 {
				require.NotEmpty(t, b.Header.Get("Age"))
				require.Contains(t, b.Header.Get("Cache-Status"), "hit")
				require.Empty(t, b.Header.Get("Set-Cookie"))
				require.Empty(t, b.Header.Get("X-Secret"))
			}
		})
	}
}

func TestKeys(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: reply(200, "x", "Cache-Control: max-age=60")}
	h := c.Handler(s)
	for i, u := range []string{"http://a.example/x", "http://a.example/x?", "http://a.example/x?a",
		"http://b.example/x", "http://a.example/X", "http://a.example/%78", "https://a.example/x"} {
		do(h, "GET", u)
		require.Equal(t, i+1, s.count(), u)
	}
	for _, u := range []string{"http://A.Example/x", "http://a.example:80/x", "https://a.example:443/x"} {
		do(h, "GET", u)
		require.Equal(t, 7, s.count(), u)
	}
}

func TestConditionalAndRange(t *testing.T) {
	c := newCache(t, Options{})
	lm := ago(time.Hour)
	s := &site{h: reply(200, "0123456789", "Cache-Control: max-age=60", `ETag: "v1"`, "Last-Modified: "+lm,
		"Content-Length: 10")}
	h := c.Handler(s)
	for range 2 { // the first is a miss, the second a hit: the answers are alike
		for _, k := range []struct {
			lines  []string
			status int
			body   string
			cr     string
		}{
			{[]string{`If-None-Match: "v1"`}, 304, "", ""},
			{[]string{`If-None-Match: "x", W/"v1"`}, 304, "", ""},
			{[]string{`If-None-Match: *`}, 304, "", ""},
			{[]string{`If-None-Match: "v2"`, "If-Modified-Since: " + lm}, 200, "0123456789", ""},
			{[]string{"If-Modified-Since: " + lm}, 304, "", ""},
			{[]string{"If-Modified-Since: " + ago(2*time.Hour)}, 200, "0123456789", ""},
			{[]string{"If-Modified-Since: nonsense"}, 200, "0123456789", ""},
			{[]string{"Range: bytes=2-4"}, 206, "234", "bytes 2-4/10"},
			{[]string{"Range: bytes=7-"}, 206, "789", "bytes 7-9/10"},
			{[]string{"Range: bytes=7-99"}, 206, "789", "bytes 7-9/10"},
			{[]string{"Range: bytes=-3"}, 206, "789", "bytes 7-9/10"},
			{[]string{"Range: bytes=-99"}, 206, "0123456789", "bytes 0-9/10"},
			{[]string{"Range: bytes=10-"}, 416, "", "bytes */10"},
			{[]string{"Range: bytes=-0"}, 416, "", "bytes */10"},
			{[]string{"Range: bytes=4-2"}, 200, "0123456789", ""},
			{[]string{"Range: bytes=a-b"}, 200, "0123456789", ""},
			{[]string{"Range: bytes=99999999999999999999-"}, 416, "", "bytes */10"},
			{[]string{"Range: items=1-2"}, 200, "0123456789", ""},
			{[]string{"Range: bytes=2-4", `If-Range: "v1"`}, 206, "234", "bytes 2-4/10"},
			{[]string{"Range: bytes=2-4", `If-Range: W/"v1"`}, 200, "0123456789", ""},
			{[]string{"Range: bytes=2-4", `If-Range: "v2"`}, 200, "0123456789", ""},
			{[]string{"Range: bytes=2-4", "If-Range: " + lm}, 206, "234", "bytes 2-4/10"},
			{[]string{"Range: bytes=2-4", "If-Range: " + ago(time.Minute)}, 200, "0123456789", ""},
			{[]string{"Range: bytes=2-4", `If-None-Match: "v1"`}, 304, "", ""},
		} {
			res := do(h, "GET", "http://a.example/x", k.lines...)
			require.Equal(t, k.status, res.StatusCode, k.lines)
			require.Equal(t, k.body, text(res), k.lines)
			require.Equal(t, k.cr, res.Header.Get("Content-Range"), k.lines)
			if k.status < 300 {
				require.Equal(t, strconv.Itoa(len(k.body)), res.Header.Get("Content-Length"))
			}
		}
		res := do(h, "HEAD", "http://a.example/x")
		require.Empty(t, text(res))
		require.Equal(t, "10", res.Header.Get("Content-Length"))
	}
	require.Equal(t, 1, s.count(), "the fill asks for the whole, without conditions")
	require.Empty(t, s.last.Get("If-None-Match")+s.last.Get("Range"))
}

func TestRevalidation(t *testing.T) {
	c := newCache(t, Options{StaleIfError: -1})
	s := &site{}
	version := "v1"
	s.h = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+version+`"`)
		w.Header().Set("Cache-Control", "max-age=0")
		w.Header().Set("X-Count", strconv.Itoa(s.count()))
		if r.Header.Get("If-None-Match") == `"`+version+`"` {
			w.WriteHeader(304)
			return
		}
		io.WriteString(w, version)
	}
	h := c.Handler(s)
	require.Equal(t, "v1", text(do(h, "GET", "http://a.example/")))
	res := do(h, "GET", "http://a.example/")
	require.Equal(t, "v1", text(res))
	require.Equal(t, "2", res.Header.Get("X-Count"), "the 304's fields count")
	require.Contains(t, res.Header.Get("Cache-Status"), "fwd=stale; fwd-status=304; stored")
	version = "v2"
	require.Equal(t, "v2", text(do(h, "GET", "http://a.example/")))
	require.EqualValues(t, 1, c.Stats().Revalidated)
	settle(t, "objects", func() bool { return c.Stats().Objects == 1 })
}

func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{})
		require.NoError(t, err)
		defer c.Close()
		s := &site{h: reply(200, "one", "Cache-Control: max-age=10, stale-while-revalidate=20, stale-if-error=100")}
		h := c.Handler(s)
		get := func() (string, string) {
			res := do(h, "GET", "http://a.example/")
			synctest.Wait()
			return text(res), res.Header.Get("Cache-Status")
		}
		get()
		s.set(reply(200, "two", "Cache-Control: max-age=10, stale-while-revalidate=20, stale-if-error=100"))
		time.Sleep(15 * time.Second)
		body, status := get()
		require.Equal(t, "one", body, "stale while it is refreshed")
		require.Contains(t, status, "ttl=-5")
		body, _ = get()
		require.Equal(t, "two", body)
		time.Sleep(50 * time.Second)
		s.set(reply(503, "sorry"))
		body, _ = get()
		require.Equal(t, "two", body, "the origin fails")
		s.set(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		body, _ = get()
		require.Equal(t, "two", body, "the origin breaks off")
		time.Sleep(100 * time.Second)
		res := do(h, "GET", "http://a.example/")
		require.Equal(t, 502, res.StatusCode, "too old to help")
		require.EqualValues(t, 3, c.Stats().Stale)
		require.EqualValues(t, 1, c.Stats().Errors)
	})
}

func TestOnlyIfCachedHeadAndMethods(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: reply(200, "x", "Cache-Control: max-age=60")}
	h := c.Handler(s)
	require.Equal(t, 504, do(h, "GET", "http://a.example/", "Cache-Control: only-if-cached").StatusCode)
	require.Zero(t, s.count())
	do(h, "HEAD", "http://a.example/")
	do(h, "GET", "http://a.example/")
	require.Equal(t, 2, s.count(), "a HEAD stores nothing")
	require.Equal(t, 200, do(h, "GET", "http://a.example/", "Cache-Control: only-if-cached").StatusCode)
	do(h, "OPTIONS", "http://a.example/")
	do(h, "GET", "http://a.example/")
	require.Equal(t, 3, s.count(), "a safe method invalidates nothing")
	s.set(reply(500, "failed"))
	do(h, "POST", "http://a.example/")
	require.Equal(t, "hit", strings.Split(do(h, "GET", "http://a.example/").Header.Get("Cache-Status"), "; ")[1],
		"an error changes nothing")
	s.set(reply(201, "done", "Location: /made", "Content-Location: http://other.example/x",
		"Cache-Control: max-age=60"))
	do(h, "GET", "http://a.example/made")
	do(h, "GET", "http://other.example/x")
	before := s.count()
	do(h, "DELETE", "http://a.example/")
	do(h, "GET", "http://a.example/")
	do(h, "GET", "http://a.example/made")
	do(h, "GET", "http://other.example/x")
	require.Equal(t, before+3, s.count(), "the URL and Location are gone, another host's stay")
}

func TestCollapsing(t *testing.T) {
	c := newCache(t, Options{})
	release := make(chan bool)
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "x")
	}}
	h := c.Handler(s)
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 1000 {
		wg.Go(func() {
			if text(do(h, "GET", "http://a.example/")) == "x" {
				good.Add(1)
			}
		})
	}
	for c.Stats().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	wg.Wait()
	require.EqualValues(t, 1000, good.Load())
	require.Equal(t, 1, s.count())
}

// Waiters read while the fill runs, and a first client that leaves disturbs nobody.
func TestWaitersStreamAndTheLeaderMayLeave(t *testing.T) {
	c := newCache(t, Options{})
	step := make(chan bool)
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		for i := range 10 {
			fmt.Fprint(w, i)
			w.(http.Flusher).Flush()
			<-step
		}
	}}
	srv := httptest.NewServer(c.Handler(s))
	defer srv.Close()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	open := func(ctx context.Context) *http.Response {
		req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
		res, err := tr.RoundTrip(req)
		require.NoError(t, err)
		return res
	}
	ctx, cancel := context.WithCancel(t.Context())
	leader, waiter := open(ctx), open(t.Context())
	b := make([]byte, 1)
	_, err := io.ReadFull(waiter.Body, b)
	require.NoError(t, err)
	require.Equal(t, "0", string(b), "the first byte is there although the fill has hardly begun")
	step <- true
	cancel()
	leader.Body.Close()
	for range 9 {
		step <- true
	}
	rest, err := io.ReadAll(waiter.Body)
	require.NoError(t, err)
	waiter.Body.Close()
	require.Equal(t, "123456789", string(rest))
	hit := open(t.Context())
	require.Equal(t, "10", hit.Header.Get("Content-Length"), "known now")
	all, _ := io.ReadAll(hit.Body)
	hit.Body.Close()
	require.Equal(t, "0123456789", string(all))
	require.Equal(t, 1, s.count())
}

func TestUncacheableIsNotSerialised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Options{})
		var now, peak atomic.Int64
		s := &site{h: func(w http.ResponseWriter, r *http.Request) {
			n := now.Add(1)
			defer now.Add(-1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			time.Sleep(50 * time.Millisecond)
			w.Header().Set("Cache-Control", "private")
			io.WriteString(w, r.Header.Get("X-Me"))
		}}
		h := c.Handler(s)
		burst := func() time.Duration {
			start := time.Now()
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					me := strconv.Itoa(i)
					if got := text(do(h, "GET", "http://a.example/", "X-Me: "+me)); got != me {
						t.Errorf("client %s got %s", me, got)
					}
				})
			}
			wg.Wait()
			return time.Since(start)
		}
		require.Equal(t, 100*time.Millisecond, burst(), "the first one tells, then all at once")
		require.Equal(t, 50*time.Millisecond, burst(), "remembered")
		require.Greater(t, peak.Load(), int64(50))
		require.Equal(t, 200, s.count())
	})
}

func TestOriginThatBreaksOff(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Length", "1000")
		w.Write(make([]byte, 600))
		panic(http.ErrAbortHandler)
	}}
	srv := httptest.NewServer(c.Handler(s))
	defer srv.Close()
	res, err := http.Get(srv.URL)
	if err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	require.Error(t, err, "the client sees that it is incomplete")
	s.set(reply(200, "whole", "Cache-Control: max-age=60"))
	res, err = http.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "whole", text(res))
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	require.Equal(t, 2, s.count(), "what broke off was not kept")
}

func TestTooLargePassesThrough(t *testing.T) {
	c := newCache(t, Options{MaxBytes: 1 << 20, MaxObject: 100 << 10})
	big := bytes.Repeat([]byte("x"), 8<<20)
	known := true
	s := &site{}
	s.h = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(big))
			return
		}
		if known {
			w.Header().Set("Content-Length", strconv.Itoa(len(big)))
		}
		w.Write(big)
	}
	h := c.Handler(s)
	res := do(h, "GET", "http://a.example/known")
	require.Len(t, text(res), len(big))
	require.Contains(t, res.Header.Get("Cache-Status"), "too-large")
	res = do(h, "GET", "http://a.example/part", "Range: bytes=5-9")
	require.Equal(t, 206, res.StatusCode)
	require.Equal(t, "xxxxx", text(res))
	known = false
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got := text(do(h, "GET", "http://a.example/unknown")); len(got) != len(big) {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
	wg.Wait()
	require.Zero(t, c.Stats().Objects)
	require.Zero(t, c.Stats().Bytes)
}

func TestMemoryBudget(t *testing.T) {
	c := newCache(t, Options{MaxBytes: 1 << 20})
	s := &site{h: reply(200, strings.Repeat("x", 10_000), "Cache-Control: max-age=60")}
	h := c.Handler(s)
	for i := range 500 {
		do(h, "GET", fmt.Sprint("http://a.example/", i))
		require.LessOrEqual(t, c.Stats().Bytes, int64(1<<20+16<<10), "at most by what a fill has just read")
	}
	st := c.Stats()
	require.Greater(t, st.Objects, 80)
	require.Greater(t, st.Evictions, uint64(350))
	settle(t, "the index holds no leftovers", func() bool {
		n := 0
		c.index.prefixed("", func(*entry) { n++ })
		return c.Stats().Objects == n
	})
}

func TestVariantsAreCapped(t *testing.T) {
	c := newCache(t, Options{MaxVariants: 3})
	h := c.Handler(&site{h: reply(200, "x", "Cache-Control: max-age=60", "Vary: X-A")})
	for i := range 20 {
		do(h, "GET", "http://a.example/", fmt.Sprint("X-A: ", i))
	}
	settle(t, "kept", func() bool { return c.Stats().Objects == 3 })
}

func TestPurge(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "X-A")
		w.Header().Set("Surrogate-Key", "all page-"+r.URL.Path[1:])
		io.WriteString(w, "x")
	}}
	h := c.Handler(s)
	fill := func() {
		for _, p := range []string{"1", "2", "3/a", "3/b"} {
			do(h, "GET", "http://a.example/"+p)
		}
		require.Empty(t, do(h, "GET", "http://a.example/1").Header.Get("Surrogate-Key"), "not for clients")
	}
	purge := func(m Match) int {
		n, err := c.Purge(t.Context(), m)
		require.NoError(t, err)
		return n
	}
	fill()
	do(h, "GET", "http://a.example/1", "X-A: 2")
	require.Equal(t, 2, purge(Match{URL: "HTTP://A.example:80/1"}), "both variants")
	settle(t, "objects", func() bool { return c.Stats().Objects == 3 })
	require.Equal(t, 2, purge(Match{Prefix: "http://a.example/3/"}))
	require.Equal(t, 1, purge(Match{Tag: "page-2"}))
	require.Zero(t, purge(Match{Tag: "page-2"}))
	fill()
	require.Equal(t, 4, purge(Match{Tag: "all", Soft: true}))
	settle(t, "objects", func() bool { return c.Stats().Objects == 4 })
	before := s.count()
	do(h, "GET", "http://a.example/1")
	require.Equal(t, before+1, s.count(), "stale")
	require.Equal(t, 4, purge(Match{All: true}))
	require.Empty(t, c.tags.m)
	for _, bad := range []Match{{}, {URL: "http://a/", All: true}, {URL: "/path"}} {
		_, err := c.Purge(t.Context(), bad)
		require.Error(t, err)
	}
	n, err := PurgeAll(c, c).Purge(t.Context(), Match{All: true})
	require.NoError(t, err)
	require.Zero(t, n)
}

// A purge while a fetch runs wins: what the fetch brings may be older than the purge.
func TestPurgeWinsOverFills(t *testing.T) {
	for name, m := range map[string]Match{"url": {URL: "http://a.example/"}, "prefix": {Prefix: "http://a"},
		"tag": {Tag: "t"}, "all": {All: true}} {
		for _, late := range []bool{false, true} { // before the header, or within the body
			t.Run(fmt.Sprint(name, late), func(t *testing.T) {
				c := newCache(t, Options{})
				reached, release := make(chan bool, 1), make(chan bool)
				s := &site{h: func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Surrogate-Key", "t")
					if late {
						io.WriteString(w, "ol")
						w.(http.Flusher).Flush()
					}
					reached <- true
					<-release
					io.WriteString(w, "old"[map[bool]int{false: 0, true: 2}[late]:])
				}}
				h := c.Handler(s)
				first := make(chan string)
				go func() { first <- text(do(h, "GET", "http://a.example/")) }()
				<-reached
				if late {
					for c.Stats().InFlight == 0 || func() bool {
						s := (&service{e: h.(*edge), r: httptest.NewRequest("GET", "/", nil)})
						s.key = []byte("http://a.example/")
						s.hash = c.hash(s.key)
						s.now = time.Now()
						o, _ := s.lookup()
						return o == nil
					}() {
						time.Sleep(time.Millisecond)
					}
				}
				_, err := c.Purge(t.Context(), m)
				require.NoError(t, err)
				s.set(reply(200, "new", "Cache-Control: max-age=60"))
				require.Equal(t, "new", text(do(h, "GET", "http://a.example/")),
					"a request after the purge does not join")
				close(release)
				require.Equal(t, "old", <-first, "the client that asked before gets what it asked for")
				time.Sleep(10 * time.Millisecond)
				require.Equal(t, "new", text(do(h, "GET", "http://a.example/")))
			})
		}
	}
}

func TestPurgeHandler(t *testing.T) {
	c := newCache(t, Options{})
	h := c.Handler(&site{h: reply(200, "x", "Cache-Control: max-age=60")})
	do(h, "GET", "http://a.example/")
	post := func(p http.Handler, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(body)))
		return w
	}
	require.Equal(t, 403, post(c.PurgeHandler(nil), `{"all":true}`).Code)
	yes := c.PurgeHandler(func(*http.Request) bool { return true })
	require.Equal(t, 400, post(yes, `{"al":true}`).Code)
	require.Equal(t, 400, post(yes, `{}`).Code)
	require.Equal(t, "{\"purged\":1}\n", post(yes, `{"url":"http://a.example/"}`).Body.String())
	require.Equal(t, 405, do(yes, "GET", "/").StatusCode)
}

func TestProxy(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(103)
		}
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("X-Host", r.Host)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Method, " ", r.RequestURI, " ", string(body))
	}}
	origin := httptest.NewServer(s)
	defer origin.Close()
	h, err := c.Proxy("http://127.0.0.1:1", ProxyOptions{Fallbacks: []string{origin.URL + "/base"}})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	defer edge.Close()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	ask := func(method, path, body string) *http.Response {
		req, _ := http.NewRequest(method, edge.URL+path, strings.NewReader(body))
		req.Header.Set("X-Forwarded-Host", "evil.example")
		req.Header.Set("X-Forwarded-For", "6.6.6.6")
		req.Header.Set("X-Original-Url", "/admin")
		res, err := tr.RoundTrip(req)
		require.NoError(t, err)
		all := text(res)
		res.Body.Close()
		res.Body = io.NopCloser(strings.NewReader(all))
		return res
	}
	res := ask("GET", "/a%2Fb?q=1", "")
	require.Equal(t, "GET /base/a%2Fb?q=1 ", text(res))
	require.Equal(t, strings.TrimPrefix(origin.URL, "http://"), res.Header.Get("X-Host"))
	require.Equal(t, "127.0.0.1", s.last.Get("X-Forwarded-For"))
	require.Equal(t, strings.TrimPrefix(edge.URL, "http://"), s.last.Get("X-Forwarded-Host"))
	require.Empty(t, s.last.Get("X-Original-Url"))
	require.Contains(t, ask("GET", "/a%2Fb?q=1", "").Header.Get("Cache-Status"), "hit")
	// a body that may have been read is not sent to the next origin
	require.Equal(t, 502, ask("POST", "/p", "data").StatusCode)
	direct, err := c.Proxy(origin.URL, ProxyOptions{KeepHost: true})
	require.NoError(t, err)
	edge2 := httptest.NewServer(direct)
	defer edge2.Close()
	req, _ := http.NewRequest("POST", edge2.URL+"/p", strings.NewReader("data"))
	req.Host = "site.example"
	res, err = tr.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, "POST /p data", text(res))
	res.Body.Close()
	require.Equal(t, "site.example", res.Header.Get("X-Host"))
	var early textproto.MIMEHeader
	req, _ = http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(),
		&httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			early = h
			return nil
		}}), "GET", edge2.URL+"/early", nil)
	res, err = tr.RoundTrip(req)
	require.NoError(t, err)
	text(res)
	res.Body.Close()
	require.Equal(t, "</a.css>", early.Get("Link"))
	for _, bad := range []string{"", "ftp://x", "http://", "http://a/?q"} {
		_, err := c.Proxy(bad, ProxyOptions{})
		require.Error(t, err, bad)
	}
}

func TestLoopIsRefused(t *testing.T) {
	c := newCache(t, Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h, err := c.Proxy("http://"+l.Addr().String(), ProxyOptions{KeepHost: true})
	require.NoError(t, err)
	n := 0
	// another key at each turn, so that the cache itself can't end it
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		r.URL.RawQuery = strconv.Itoa(n)
		h.ServeHTTP(w, r)
	})}
	go s.Serve(l)
	defer s.Close()
	res, err := http.Get("http://" + l.Addr().String() + "/")
	require.NoError(t, err)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	require.Equal(t, 508, res.StatusCode)
	require.LessOrEqual(t, n, 3)
}

func TestUpgradePassesThrough(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, buf)
	}))
	defer origin.Close()
	c := newCache(t, Options{})
	h, err := c.Proxy(origin.URL, ProxyOptions{})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	defer edge.Close()
	conn, err := net.Dial("tcp", strings.TrimPrefix(edge.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	io.WriteString(conn, "ping")
	b := make([]byte, 4)
	_, err = io.ReadFull(br, b)
	require.NoError(t, err)
	require.Equal(t, "ping", string(b))
}

func TestSetCookieGoesToTheFirstAlone(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: reply(200, "x", "Cache-Control: public, max-age=60", "Set-Cookie: id=1")}
	h := c.Handler(s)
	require.Equal(t, "id=1", do(h, "GET", "http://a.example/").Header.Get("Set-Cookie"))
	require.Empty(t, do(h, "GET", "http://a.example/").Header.Get("Set-Cookie"))
	rfc := newCache(t, Options{StoreSetCookie: true})
	h = rfc.Handler(&site{h: reply(200, "x", "Cache-Control: max-age=60", "Set-Cookie: id=1")})
	do(h, "GET", "http://a.example/")
	require.Equal(t, "id=1", do(h, "GET", "http://a.example/").Header.Get("Set-Cookie"))
}

func TestWarmAndClose(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(404)
		}
		w.Header().Set("Cache-Control", "max-age=60")
	}}
	h := c.Handler(s)
	require.NoError(t, c.Warm(t.Context(), h, "http://a.example/1", "http://a.example/2"))
	require.ErrorContains(t, c.Warm(t.Context(), h, "http://a.example/missing"), "404")
	require.Contains(t, do(h, "GET", "http://a.example/2").Header.Get("Cache-Status"), "hit")
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.Equal(t, 200, do(h, "GET", "http://a.example/3").StatusCode, "a closed cache passes through")
	_, err := c.Purge(t.Context(), Match{All: true})
	require.ErrorIs(t, err, ErrClosed)
}

func TestTrailersAreNotLost(t *testing.T) {
	c := newCache(t, Options{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
	}))
	defer origin.Close()
	h, err := c.Proxy(origin.URL, ProxyOptions{})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	defer edge.Close()
	for range 2 {
		res, err := http.Get(edge.URL)
		require.NoError(t, err)
		require.Equal(t, "body", text(res))
		res.Body.Close()
		require.Equal(t, "42", res.Trailer.Get("X-Sum"))
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{"MaxBytes": {MaxBytes: -1}, "MaxObject": {MaxBytes: 10, MaxObject: 9},
		"Name": {Name: "a b"}} {
		_, err := New(o)
		require.ErrorContains(t, err, want)
	}
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := newCache(t, Options{})
	h := c.Handler(&site{h: reply(200, "x", "Cache-Control: max-age=600", "Content-Type: text/plain")})
	r := httptest.NewRequest("GET", "http://a.example/x?y=1", nil)
	w := &discard{h: http.Header{}}
	h.ServeHTTP(w, r)
	for c.Stats().Objects == 0 {
		time.Sleep(time.Millisecond)
	}
	if race.Enabled {
		return // pools drop at random
	}
	require.LessOrEqual(t, testing.AllocsPerRun(2000, func() { h.ServeHTTP(w, r) }), 0.1)
	require.NotZero(t, c.Stats().Hits)
}
