package lb

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
)

// RoundTripper balances a client's requests: the URL's host is replaced by the picked backend's address, the Host
// header stays what the request says. base does the transport; nil: transports made for it, by the endpoint's scheme.
// Retries follow [Retry]; a request's body is sent again only when it has GetBody.
func (b *Balancer) RoundTripper(base http.RoundTripper) http.RoundTripper {
	t := &tripper{b: b, base: base}
	if base == nil {
		own := newTransports(&b.o)
		plain := own.secure.Clone()
		t.own = map[string]http.RoundTripper{"http": plain, "https": own.secure, "h2c": own.clear2}
		t.close = func() { plain.CloseIdleConnections(); own.close() }
	}
	return t
}

var errNoResponse = errors.New("lb: the RoundTripper did not return")

type tripper struct {
	b     *Balancer
	base  http.RoundTripper
	own   map[string]http.RoundTripper
	close func()
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach the transport.
func (t *tripper) CloseIdleConnections() {
	if t.close != nil {
		t.close()
	} else if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	b := t.b
	ctx := r.Context()
	q := request{Request: r, key: b.rank(r), idempotent: b.idempotent(r)}
	q.key.Hash, q.key.Keyed = b.hash(r, netip.Addr{})
	resendable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	hedge, hedged := resendable && t.hedges(r, q.idempotent), false
	a := b.Attempts(q.key)
	for a.Next(ctx) {
		var got trip
		if delay, ok := b.hedgeDelay(); ok && hedge && !hedged {
			var failed []*Backend
			got, failed = t.race(&q, a.Pick, a.tried, delay)
			hedged = len(failed) > 0
			for _, be := range failed {
				a.tried.add(be)
			}
			a.Pick = got.lease
		} else {
			got = t.send(ctx, r, a.Pick, a.tried.len() > 0)
		}
		cause, safe := got.err, resendable && ctx.Err() == nil
		if cause == nil {
			cause = a.Discards(got.res.StatusCode, safe && q.idempotent)
			safe = cause != nil
		} else {
			out := http1.Outcome{Client: got.own, Unsent: unsentError(cause)}
			safe = safe && out.SafeToRetry(q.idempotent)
		}
		if !a.Again(cause, safe) {
			if got.err == nil {
				return got.pass(ctx), nil
			}
			got.fail(ctx)
			return nil, got.err
		}
		got.fail(ctx)
	}
	closeBody(r)
	return nil, a.Err
}

// request is a request with what the functions of the options say of it. They are asked before a backend is picked, so
// that their panics leave nothing behind.
type request struct {
	*http.Request
	key        Key
	idempotent bool
}

// trip is one attempt and what came of it.
type trip struct {
	lease   Pick
	res     *http.Response
	err     error
	own     bool // err is the request's own, nothing that the backend is to blame for
	latency time.Duration
	cancel  func() // nil: there is nothing to cancel
}

func (p trip) stop() {
	if p.cancel != nil {
		p.cancel()
	}
}

// fail ends an attempt whose answer is not passed on.
func (p trip) fail(ctx context.Context) {
	if p.err == nil {
		p.res.Body.Close()
		p.lease.Done(Result{Status: p.res.StatusCode, Latency: p.latency})
	} else {
		p.lease.Done(Result{Err: p.err, Latency: p.latency, canceled: p.own || ctx.Err() != nil})
	}
	p.stop()
}

// pass hands the answer on; the lease ends with its body.
func (p trip) pass(ctx context.Context) *http.Response {
	p.res.Body = leased(p.res.Body, func(err error) {
		p.lease.Done(Result{Err: err, Status: p.res.StatusCode, Latency: p.latency, canceled: err != nil &&
			ctx.Err() != nil})
		p.stop()
	})
	return p.res
}

// send makes one attempt. fresh: the request's own body has been used already, or another attempt uses it.
func (t *tripper) send(ctx context.Context, r *http.Request, lease Pick, fresh bool) trip {
	ep := lease.b.ep.Load()
	req := r.WithContext(ctx)
	u := *r.URL
	u.Host, u.Scheme = ep.Addr, "http"
	if ep.Scheme == "https" {
		u.Scheme = "https"
	}
	req.URL = &u
	if req.Host == "" {
		req.Host = r.URL.Host
	}
	if fresh && r.GetBody != nil {
		var err error
		if req.Body, err = r.GetBody(); err != nil {
			return trip{lease: lease, err: err, own: true}
		}
	}
	rt := t.base
	if rt == nil {
		rt = t.own[ep.Scheme]
	}
	var res *http.Response
	err := errNoResponse
	if e := t.b.call("RoundTripper", func() { res, err = rt.RoundTrip(req) }); e != nil {
		err = e
	}
	return trip{lease: lease, res: res, err: err, latency: time.Since(began) - lease.start}
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// leased ends the lease with the body: at its end, at its failure, or when it is closed.
func leased(body io.ReadCloser, done func(error)) io.ReadCloser {
	l := &leasedBody{ReadCloser: body}
	l.done = func(err error) { l.once.Do(func() { done(err) }) }
	if w, ok := body.(io.Writer); ok { // a switched connection
		return struct {
			*leasedBody
			io.Writer
		}{l, w}
	}
	return l
}

type leasedBody struct {
	io.ReadCloser
	once sync.Once
	done func(error)
}

func (l *leasedBody) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err == io.EOF {
		l.done(nil)
	} else if err != nil {
		l.done(err)
	}
	return n, err
}

func (l *leasedBody) Close() error {
	err := l.ReadCloser.Close()
	l.done(nil)
	return err
}
