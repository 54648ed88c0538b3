package cdn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
	"github.com/tierkit/tierkit/internal/httpwrap"
	"log"
)

var errLoop = errors.New("cdn: the request came through this cache before")

// Proxy caches what the origin ("http://host:port", optionally with a path to put before) serves. Forwarding fields
// that claim where a request came from are not believed and not passed on (see ProxyOptions.TrustedProxies): the cache
// says so itself, in X-Forwarded-For, -Host and -Proto.
func (c *Cache) Proxy(origin string, o ProxyOptions) (http.Handler, error) {
	p := &proxy{c: c, o: o}
	for _, s := range append([]string{origin}, o.Fallbacks...) {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
			return nil, fmt.Errorf("cdn: origin %q: want http(s)://host[:port][/path]", s)
		}
		p.origins = append(p.origins, u)
	}
	if p.rt = o.Transport; p.rt == nil {
		if o.Timeout == 0 {
			o.Timeout = 30 * time.Second
		}
		t := &http.Transport{
			DisableCompression: true, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second,
			ResponseHeaderTimeout: max(o.Timeout, 0), TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		}
		p.rt = t
		c.closing.Lock()
		c.closings = append(c.closings, t.CloseIdleConnections)
		c.closing.Unlock()
	}
	direct := &httputil.ReverseProxy{
		// a library does not write to its program's log; the client sees the break
		ErrorLog:      log.New(io.Discard, "", 0),
		Transport:     p,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Header = r.In.Header.Clone() // ReverseProxy has dropped the forwarding fields that prepare may want
			up := r.In.Header["Upgrade"]
			p.prepare(r.Out)
			if len(up) > 0 {
				r.Out.Header["Upgrade"], r.Out.Header["Connection"] = up, []string{"Upgrade"}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			w.Header().Set("Cache-Control", "no-store")
			status := statusOf(err)
			http.Error(w, http.StatusText(status), status)
		},
	}
	return c.newEdge(edge{transport: p, direct: direct, prepare: p.prepare}), nil
}

type proxy struct {
	c       *Cache
	o       ProxyOptions
	origins []*url.URL
	rt      http.RoundTripper
}

// prepare turns a client's request into one for the origin, all but the URL. What is not part of the key must not reach
// the origin where it could shape the answer for others.
func (p *proxy) prepare(r *http.Request) {
	h := r.Header
	peer := clientaddr.Peer(r)
	chain := ""
	if clientaddr.Within(p.o.TrustedProxies, peer) {
		chain = strings.Join(h["X-Forwarded-For"], ", ")
	}
	stripHop(h)
	for k := range h {
		if isForwarding(k) && !p.c.unkeyed[k] {
			delete(h, k)
		}
	}
	if peer.IsValid() {
		if chain != "" {
			chain += ", "
		}
		h["X-Forwarded-For"] = []string{chain + peer.String()}
	}
	h["X-Forwarded-Host"] = []string{r.Host}
	h["X-Forwarded-Proto"] = []string{"http"}
	if r.TLS != nil {
		h["X-Forwarded-Proto"] = []string{"https"}
	}
	h["Cdn-Loop"] = append(slices.Clip(h["Cdn-Loop"]), p.c.loop)
	h["Via"] = append(slices.Clip(h["Via"]), fmt.Sprintf("%d.%d %s", r.ProtoMajor, r.ProtoMinor, p.c.o.Name))
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // else the transport names itself
	}
}

// RoundTrip sends a prepared request to the first origin that can be reached.
func (p *proxy) RoundTrip(r *http.Request) (res *http.Response, err error) {
	for _, line := range r.Header["Cdn-Loop"][:max(0, len(r.Header["Cdn-Loop"])-1)] {
		if strings.Contains(line, p.c.loop) {
			return nil, errLoop
		}
	}
	path, raw := r.URL.Path, r.URL.RawPath
	for i, origin := range p.origins {
		out := r.WithContext(r.Context())
		u := *r.URL
		u.Scheme, u.Host = origin.Scheme, origin.Host
		u.Path, u.RawPath = path, raw
		if base := strings.TrimSuffix(origin.Path, "/"); base != "" {
			if u.RawPath != "" {
				u.RawPath = strings.TrimSuffix(origin.EscapedPath(), "/") + raw
			}
			u.Path = base + path
		}
		out.URL, out.RequestURI, out.Close = &u, "", false
		if !p.o.KeepHost {
			out.Host = origin.Host
		}
		if res, err = p.rt.RoundTrip(out); err == nil || i == len(p.origins)-1 || r.Context().Err() != nil {
			return res, err
		}
		if r.Body != nil && r.Body != http.NoBody {
			return nil, err // it may have been read
		}
	}
	return res, err
}

// fillRequest is the request of a fill: what all clients with this key have in common. Ranges and conditions of one
// client are answered from the whole object; the conditions are the cache's own.
func (x *edge) fillRequest(ctx context.Context, r *http.Request, old *object) *http.Request {
	out := r.Clone(ctx)
	out.Method, out.Body, out.ContentLength = http.MethodGet, http.NoBody, 0
	h := out.Header
	for _, k := range []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since",
		"If-Unmodified-Since"} {
		delete(h, k)
	}
	if old != nil {
		if old.etag != "" {
			h["If-None-Match"] = []string{old.etag}
		}
		if lm := old.header["Last-Modified"]; lm != nil {
			h["If-Modified-Since"] = lm
		}
	}
	if x.prepare != nil {
		x.prepare(out) // which says itself where the request came from
		for k := range h {
			if isOverride(k) && !x.c.unkeyed[k] {
				delete(h, k)
			}
		}
	} else {
		x.c.dropUnkeyed(h)
	}
	return out
}

// informed delivers informational answers to the client that began a flight.
func (f *flight) informed(leader bool) <-chan information {
	if leader {
		return f.info
	}
	return nil
}

type information struct {
	code   int
	header http.Header
}

// trace catches informational answers of the origin.
func (f *flight) trace(ctx context.Context) context.Context {
	f.info = make(chan information, 4)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code != http.StatusContinue && code != http.StatusSwitchingProtocols {
				select {
				case f.info <- information{code, http.Header(h).Clone()}:
				default: // more than anybody needs
				}
			}
			return nil
		}})
}

// leave tells a flight that the client that began it has gone, or has its answer.
func (f *flight) leave() {
	f.leaving.Do(func() { close(f.left) })
	select {
	case <-f.ready:
		f.release()
	default: // the filler looks at left once ready is closed
	}
}

func (f *flight) release() {
	if f.first != nil {
		f.first.close()
	}
}

// bypass passes a request through, and has unsafe ones invalidate what they change (RFC 9111 section 4.4).
func (x *edge) bypass(w http.ResponseWriter, r *http.Request, note string) {
	c := x.c
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		c.count.outcomes[Bypass].Add(1) // the others are counted where they came from
	}
	start := time.Now()
	var kept *capture
	if r.Method == http.MethodPost {
		kept = &capture{ResponseWriter: w}
		w = kept
		defer func() { // an answer that is broken off is not whole
			if p := recover(); p != nil {
				kept.o = nil
				kept.end(c)
				panic(p)
			}
			kept.end(c)
		}()
	}
	wrapped := httpwrap.Wrap(w)
	wrapped.Before = func(status int) int {
		h := wrapped.Header()
		h["Cache-Status"] = append(slices.Clip(h["Cache-Status"]), c.o.Name+"; "+note+"; fwd-status="+
			itoa(int64(status)))
		if status < 400 && unsafeMethod(r.Method) {
			c.invalidate(r, h)
			if kept != nil && status == http.StatusOK {
				kept.begin(c, r, h, start)
			}
		}
		return 0
	}
	x.direct.ServeHTTP(wrapped, r)
	wrapped.Finish()
	n, h := uint64(wrapped.Written), c.hosts.of(r.Host)
	c.count.out.Add(n)
	c.count.in.Add(n)
	h.requests.Add(1)
	h.out.Add(n)
	h.in.Add(n)
	if k := c.o.Hooks; k != nil && k.Served != nil {
		k.Served(r, Bypass, wrapped.Status, wrapped.Written, time.Since(start))
	}
}

func unsafeMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return false
	}
	return true
}

// invalidate forgets the URL of an unsafe request and, on the same host, those of its Location and Content-Location.
func (c *Cache) invalidate(r *http.Request, h http.Header) {
	forget := func(key string) {
		c.purgeMemory(key, false)
		if c.disk != nil {
			c.disk.dropKey(key)
		}
	}
	forget(string(c.o.Key(nil, r)))
	for _, name := range []string{"Location", "Content-Location"} {
		v := h[name]
		if len(v) == 0 || v[0] == "" {
			continue
		}
		base := *r.URL
		base.Host = r.Host
		u, err := base.Parse(v[0])
		if err != nil || u.Host != "" && !strings.EqualFold(u.Host, r.Host) {
			continue
		}
		other := r.WithContext(context.Background())
		other.URL = u
		forget(string(c.o.Key(nil, other)))
	}
}

// handlerTransport makes a handler an origin.
type handlerTransport struct{ h http.Handler }

// RoundTrip runs the handler on a goroutine of its own and returns when it has sent its header.
func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, pw: pw, ready: make(chan *http.Response, 1), body: pr, ctx: r.Context()}
	stop := context.AfterFunc(r.Context(), func() { pr.CloseWithError(r.Context().Err()) })
	failed := make(chan error, 1)
	go func() {
		defer stop()
		defer func() {
			if p := recover(); p != nil {
				err := errTruncated
				if p != http.ErrAbortHandler {
					err = fmt.Errorf("cdn: the handler panicked: %v", p)
				}
				pw.CloseWithError(err)
				failed <- err
			}
		}()
		t.h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		for k := range w.declared {
			w.res.Trailer[k] = w.header[k]
		}
		pw.Close()
	}()
	select {
	case res := <-w.ready:
		return res, nil
	case err := <-failed:
		return nil, err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipeWriter struct {
	header   http.Header
	pw       *io.PipeWriter
	body     io.ReadCloser
	ready    chan *http.Response
	ctx      context.Context
	once     sync.Once
	res      *http.Response
	declared map[string]bool // trailers
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		if t := httptrace.ContextClientTrace(w.ctx); t != nil && t.Got1xxResponse != nil {
			t.Got1xxResponse(status, textproto.MIMEHeader(w.header.Clone()))
		}
		return
	}
	w.once.Do(func() {
		w.res = &http.Response{StatusCode: status, Header: w.header.Clone(), Body: w.body, ContentLength: -1,
			ProtoMajor: 1, ProtoMinor: 1}
		if cl := w.header["Content-Length"]; len(cl) == 1 {
			if n, err := parseOffset(cl[0]); err == nil && cl[0] != "" {
				w.res.ContentLength = n
			}
		}
		for _, line := range w.header["Trailer"] {
			for k := range strings.SplitSeq(line, ",") {
				if w.declared == nil {
					w.declared, w.res.Trailer = map[string]bool{}, http.Header{}
				}
				k = http.CanonicalHeaderKey(strings.TrimSpace(k))
				w.declared[k] = true
				w.res.Trailer[k] = nil
			}
		}
		w.ready <- w.res
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	if w.res == nil {
		if _, ok := w.header["Content-Type"]; !ok && len(p) > 0 {
			w.header.Set("Content-Type", http.DetectContentType(p)) // as net/http does
		}
		w.WriteHeader(http.StatusOK)
	}
	if w.res.StatusCode == http.StatusNoContent || w.res.StatusCode == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if len(p) == 0 {
		return 0, nil
	}
	return w.pw.Write(p)
}

func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
