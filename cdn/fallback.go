package cdn

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// FallbackOptions tell where to go when the edge fails.
type FallbackOptions struct {
	// required, such as "https://cdn.example.com": requests to it are looked after, all others pass
	Edge string
	// required, such as "https://www.example.com": where they go instead; paths are the same on both
	Origin    string
	Transport http.RoundTripper // nil: http.DefaultTransport
	// for the header of the edge's answer to a request that may be repeated; 0: 5 s; negative: none
	Timeout  time.Duration
	Cooldown time.Duration // how long the edge is left alone after it failed, then one request tries it; 0: 5 s
}

// Fallback is an http.RoundTripper for programs that load from an edge: when the edge itself fails, the request goes to
// the origin. It is safe for concurrent use.
//
// The edge has failed when it can't be reached, breaks off before its header, or something before it answers 502, 503
// or 504: an answer with Cache-Status is the edge's, which asked the origin in vain, and asking it once more would only
// add to its load. Only what may be repeated is: GET, HEAD and OPTIONS without a body, and any other request when no
// connection was made and its body, if any, can be read again (http.Request.GetBody).
type Fallback struct {
	edge, origin *url.URL
	o            FallbackOptions
	until        atomic.Int64 // Unix nanoseconds; before it the edge is left alone
	failures     atomic.Uint64
	origins      atomic.Uint64
}

// FallbackStats are counters of a [Fallback].
type FallbackStats struct {
	EdgeFailures uint64 `metric:"edge_failures_total,counter,Requests that the edge failed to answer"`
	ToOrigin     uint64 `metric:"fallback_requests_total,counter,Requests that went to the origin instead"`
}

// NewFallback checks the options.
func NewFallback(o FallbackOptions) (*Fallback, error) {
	edge, origin, err := o.check()
	if err != nil {
		return nil, err
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Cooldown == 0 {
		o.Cooldown = 5 * time.Second
	}
	return &Fallback{edge: edge, origin: origin, o: o}, nil
}

func (o *FallbackOptions) check() (edge, origin *url.URL, err error) {
	for _, x := range []struct {
		name, value string
		to          **url.URL
	}{{"Edge", o.Edge, &edge}, {"Origin", o.Origin, &origin}} {
		u, err := url.Parse(x.value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" ||
			u.RawQuery != "" {
			return nil, nil, fmt.Errorf("cdn: FallbackOptions.%s %q: want http(s)://host[:port]", x.name, x.value)
		}
		*x.to = u
	}
	if o.Cooldown < 0 {
		return nil, nil, errors.New("cdn: FallbackOptions.Cooldown: want 0 or more")
	}
	return edge, origin, nil
}

// RoundTrip implements http.RoundTripper.
func (f *Fallback) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != f.edge.Scheme || !strings.EqualFold(r.URL.Host, f.edge.Host) {
		return f.o.Transport.RoundTrip(r)
	}
	now := time.Now()
	if until := f.until.Load(); until > 0 && (now.UnixNano() < until ||
		!f.until.CompareAndSwap(until, now.Add(f.o.Cooldown).UnixNano())) {
		return f.direct(r, false)
	}
	free := (r.Body == nil || r.Body == http.NoBody) &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions)
	res, err := f.ask(r, free)
	failed := err != nil || res.StatusCode >= 502 && res.StatusCode <= 504 && res.Header.Get("Cache-Status") == ""
	if !failed {
		f.until.Store(0)
		return res, nil
	}
	if r.Context().Err() != nil { // the caller's own doing
		return res, err
	}
	f.failures.Add(1)
	f.until.Store(time.Now().Add(f.o.Cooldown).UnixNano())
	again := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	var dial *net.OpError
	unsent := errors.As(err, &dial) && dial.Op == "dial"
	if !free && !(unsent && again) {
		return res, err
	}
	other, otherErr := f.direct(r, true)
	if otherErr != nil {
		if err == nil {
			return res, nil // what the edge said is more than nothing
		}
		return nil, errors.Join(err, otherErr)
	}
	if res != nil {
		res.Body.Close()
	}
	return other, nil
}

// ask sends a request to the edge.
func (f *Fallback) ask(r *http.Request, bounded bool) (*http.Response, error) {
	if !bounded || f.o.Timeout < 0 {
		return f.o.Transport.RoundTrip(r)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	late := time.AfterFunc(f.o.Timeout, func() {
		cancel(fmt.Errorf("cdn: no answer of the edge within %v", f.o.Timeout))
	})
	res, err := f.o.Transport.RoundTrip(r.WithContext(ctx))
	if !late.Stop() && err == nil { // the header came with the deadline: its body can't be read any more
		res.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	res.Body = &cancelClose{res.Body, func() { cancel(nil) }}
	return res, nil
}

type cancelClose struct {
	io.ReadCloser
	cancel func()
}

func (c *cancelClose) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// direct sends a request to the origin.
func (f *Fallback) direct(r *http.Request, again bool) (*http.Response, error) {
	f.origins.Add(1)
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = f.origin.Scheme, f.origin.Host, ""
	if again && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	return f.o.Transport.RoundTrip(out)
}

// Stats returns the counters.
func (f *Fallback) Stats() FallbackStats {
	return FallbackStats{EdgeFailures: f.failures.Load(), ToOrigin: f.origins.Load()}
}

//go:embed fallback.js
var fallbackJS string

// FallbackScript returns a script for pages whose images, scripts, style sheets, media and fetches come from an edge:
// what the edge fails to deliver is loaded from the origin. Put it into the page itself, in an inline script element
// before the first of them; csp is its source expression for a Content-Security-Policy. It is plain text that is safe
// within a script element.
//
// What raises no event can't be helped: images and fonts that a style sheet names, and the page itself when it comes
// from the edge. A script that is loaded anew runs after the page was parsed. An edge that takes a connection and says
// nothing counts as failed only when the browser gives up.
func FallbackScript(o FallbackOptions) (script, csp string, err error) {
	edge, origin, err := o.check()
	if err != nil {
		return "", "", err
	}
	a, err := json.Marshal(edge.Scheme + "://" + edge.Host) // which escapes < and >
	if err != nil {
		return "", "", err
	}
	b, err := json.Marshal(origin.Scheme + "://" + origin.Host)
	if err != nil {
		return "", "", err
	}
	script = strings.TrimSpace(fallbackJS) + "(" + string(a) + "," + string(b) + ");"
	sum := sha256.Sum256([]byte(script))
	return script, "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'", nil
}
