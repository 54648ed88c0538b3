package lb

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"
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
	k := b.rank(r)
	k.Hash, k.Keyed = b.o.Key(r, netip.Addr{})
	var avoid tried
	var failure error
	resendable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	hedged := false
	for {
		lease, err := b.pick(ctx, k, avoid)
		if err != nil {
			closeBody(r)
			if failure != nil && errors.Is(err, ErrNoBackend) {
				err = failure
			}
			return nil, err
		}
		last := len(avoid) >= b.o.Retry.Max
		var got trip
		if delay, hedge := t.hedges(r); hedge && resendable && !hedged {
			var both tried
			got, both = t.race(r, lease, k, avoid, delay)
			hedged = len(both) > 0
			avoid = append(avoid, both...)
		} else {
			got = t.send(ctx, r, lease, len(avoid) > 0)
		}
		again := resendable && ctx.Err() == nil && !last
		if failure = got.err; failure == nil {
			again, failure = again && t.retryStatus(r, got) && len(avoid)+1 < len(b.snap.Load().usable), errStatus
		} else {
			again = again && !got.own && (unsentError(failure) || b.o.Retry.Idempotent(r))
		}
		if !again || !b.again(got.lease.b, failure) {
			if got.err == nil {
				return got.pass(ctx), nil
			}
			got.fail(ctx)
			return nil, got.err
		}
		got.fail(ctx)
		avoid = append(avoid, got.lease.b)
	}
}

func (t *tripper) retryStatus(r *http.Request, got trip) bool {
	return t.b.o.Retry.Idempotent(r) && statusIn(t.b.o.Retry.Statuses, got.res.StatusCode)
}

// trip is one attempt and what came of it.
type trip struct {
	lease   Lease
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
		p.lease.Done(Result{Err: p.err, Latency: p.latency, Ignored: p.own || ctx.Err() != nil})
	}
	p.stop()
}

// pass hands the answer on; the lease ends with its body.
func (p trip) pass(ctx context.Context) *http.Response {
	p.res.Body = leased(p.res.Body, func(err error) {
		p.lease.Done(Result{Err: err, Status: p.res.StatusCode, Latency: p.latency, Ignored: err != nil &&
			ctx.Err() != nil})
		p.stop()
	})
	return p.res
}

// send makes one attempt. fresh: the request's own body has been used already, or another attempt uses it.
func (t *tripper) send(ctx context.Context, r *http.Request, lease Lease, fresh bool) trip {
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
	res, err := rt.RoundTrip(req)
	return trip{lease: lease, res: res, err: err, latency: time.Since(began) - lease.start}
}

func statusIn(list []int, status int) bool {
	for _, s := range list {
		if s == status {
			return true
		}
	}
	return false
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
