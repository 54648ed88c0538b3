package cdn

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
)

func TestFallback(t *testing.T) {
	var asked atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Method, " ", r.Host, " ", r.URL.RequestURI(), " ", string(b))
	}))
	defer origin.Close()
	var status atomic.Int64
	var slow atomic.Bool
	edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			<-r.Context().Done()
			return
		}
		if s := int(status.Load()); s < 0 { // of the cache itself, which asked in vain
			w.Header().Set("Cache-Status", "tierkit; fwd=miss")
			w.WriteHeader(-s)
		} else {
			w.WriteHeader(s)
		}
		fmt.Fprint(w, "edge")
	}))
	defer edge.Close()
	status.Store(200)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	f, err := NewFallback(FallbackOptions{Edge: edge.URL, Origin: origin.URL, Transport: tr, Cooldown: time.Nanosecond,
		Timeout: time.Second})
	require.NoError(t, err)
	c := &http.Client{Transport: f}
	send := func(method, url, body string) (int, string) {
		t.Helper()
		var in io.Reader
		if body != "" {
			in = strings.NewReader(body)
		}
		r, err := http.NewRequest(method, url, in)
		require.NoError(t, err)
		res, err := c.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(b)
	}
	is := func(wantStatus int, want string) func(int, string) {
		return func(s int, b string) {
			t.Helper()
			require.Equal(t, wantStatus, s)
			require.Equal(t, want, b)
		}
	}
	host := strings.TrimPrefix(origin.URL, "http://")
	is(200, "edge")(send("GET", edge.URL+"/a", ""))
	is(200, "GET "+host+" /a ")(send("GET", origin.URL+"/a", ""))
	status.Store(503)
	is(200, "GET "+host+" /a?b=c ")(send("GET", edge.URL+"/a?b=c", ""))
	is(503, "edge")(send("POST", edge.URL+"/a", "x"))
	status.Store(-502)
	is(502, "edge")(send("GET", edge.URL+"/a", ""))
	status.Store(404)
	is(404, "edge")(send("GET", edge.URL+"/a", ""))
	slow.Store(true)
	is(200, "GET "+host+" /late ")(send("GET", edge.URL+"/late", ""))
	slow.Store(false)

	edge.Close()
	tr.CloseIdleConnections()
	is(200, "GET "+host+" /a ")(send("GET", edge.URL+"/a", ""))
	is(200, "POST "+host+" /a body")(send("POST", edge.URL+"/a", "body")) // no connection was made: nothing was sent
	f.o.Cooldown = time.Hour
	send("GET", edge.URL+"/a", "")
	before := f.Stats()
	is(200, "GET "+host+" /b ")(send("GET", edge.URL+"/b", ""))
	require.Equal(t, before.EdgeFailures, f.Stats().EdgeFailures, "the edge is left alone")
	require.Equal(t, before.ToOrigin+1, f.Stats().ToOrigin)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(gone, "GET", edge.URL, nil)
	require.NoError(t, err)
	_, err = c.Do(r)
	require.ErrorIs(t, err, context.Canceled)
	for want, o := range map[string]FallbackOptions{"Edge": {Origin: "http://a"},
		"Origin":   {Edge: "http://a", Origin: "http://a/path"},
		"Cooldown": {Edge: "http://a", Origin: "http://b", Cooldown: -1}} {
		_, err := NewFallback(o)
		require.ErrorContains(t, err, want)
	}
}

// A page in Chromium whose edge has been killed: image, script, style sheet and fetch come from the origin, under a
// strict Content-Security-Policy.
func TestFallbackInABrowser(t *testing.T) {
	exe := testserver.Command(t, "chromium", "apt install chromium")
	var edgeURL string
	var pic bytes.Buffer
	require.NoError(t, png.Encode(&pic, image.NewGray(image.Rect(0, 0, 7, 5))))
	var originURL string
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Set("Access-Control-Allow-Origin", "*")
		switch strings.TrimSuffix(r.URL.Path, "/") {
		case "/pic.png":
			h.Set("Content-Type", "image/png")
			w.Write(pic.Bytes())
		case "/app.js":
			h.Set("Content-Type", "text/javascript")
			fmt.Fprint(w, `window.ran = (window.ran || 0) + 1;`)
		case "/style.css":
			h.Set("Content-Type", "text/css")
			fmt.Fprint(w, `#box { width: 123px; height: 1px }`)
		case "/data.json":
			h.Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"answer": 42}`)
		case "/page":
			script, csp, err := FallbackScript(FallbackOptions{Edge: edgeURL, Origin: originURL})
			if err != nil {
				http.Error(w, err.Error(), 500)
				return
			}
			h.Set("Cache-Control", "no-store")
			h.Set("Content-Type", "text/html")
			h.Set("Content-Security-Policy", fmt.Sprintf(
				"default-src 'none'; connect-src %[1]s 'self'; img-src %[1]s 'self'; style-src %[1]s 'self'; script-src %[1]s 'self' %[2]s", edgeURL, csp))
			fmt.Fprintf(w, `<!doctype html><html><head><script>%[1]s</script><link rel="stylesheet" href="%[2]s/style.css"></head>
<body><div id="box"></div><img id="pic" src="%[2]s/pic.png" srcset="%[2]s/pic.png 2x"><script src="%[2]s/app.js"></script></body></html>`, script, edgeURL)
		default:
			http.NotFound(w, r)
		}
	}))
	defer origin.Close()
	originURL = origin.URL
	c := newCache(t, Options{})
	h, err := c.Proxy(origin.URL, ProxyOptions{})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	defer edge.Close()
	edgeURL = edge.URL

	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.UserDataDir(t.TempDir()))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	defer stop()
	ctx, cancel := chromedp.NewContext(alloc)
	defer cancel()
	require.NoError(t, chromedp.Do(ctx)) // the browser lives as long as this context; the timeout is for what follows
	ctx, done := context.WithTimeout(ctx, 90*time.Second)
	defer done()
	look := func(what string) {
		t.Helper()
		require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(origin.URL+"/page")), what)
		for name, expr := range map[string]string{
			"script": `window.ran === 1`,
			"image":  `document.getElementById("pic").naturalHeight >= 2`,
			"style":  `document.getElementById("box").offsetWidth === 123`,
			"fetch": `(window.got === undefined ? (window.got = 0, fetch("` + edgeURL +
				`/data.json").then(r => r.json()).then(d => { window.got = d.answer })) : 0, window.got === 42)`,
		} {
			ok, err := chromedp.Run(ctx, chromedp.Poll[bool](expr, chromedp.WithPollingTimeout(30*time.Second)))
			require.NoError(t, err, "%s: %s", what, name)
			require.True(t, ok, "%s: %s", what, name)
		}
	}
	look("with the edge")
	require.GreaterOrEqual(t, c.Stats().Misses, uint64(4), "it all came by the edge")
	edge.CloseClientConnections()
	edge.Close()
	require.NoError(t, c.Close())
	look("with the edge dead")
}
