package lb

import (
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
	var k Key
	k.Hash, k.Keyed = b.o.Key(r, netip.Addr{})
	var avoid tried
	var failure error
	for {
		lease, err := b.pick(ctx, k, avoid)
		if err != nil {
			closeBody(r)
			if failure != nil && errors.Is(err, ErrNoBackend) {
				err = failure
			}
			return nil, err
		}
		be := lease.b
		ep := be.ep.Load()
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
		if len(avoid) > 0 && r.GetBody != nil {
			if req.Body, err = r.GetBody(); err != nil {
				lease.Done(Result{Ignored: true})
				return nil, err
			}
		}
		rt := t.base
		if rt == nil {
			rt = t.own[ep.Scheme]
		}
		res, err := rt.RoundTrip(req)
		latency := time.Since(began) - lease.start
		last := len(avoid) >= b.o.Retry.Max
		again := (r.Body == nil || r.Body == http.NoBody || r.GetBody != nil) && ctx.Err() == nil && !last
		if err == nil {
			again = again && b.o.Retry.Idempotent(r) && statusIn(b.o.Retry.Statuses, res.StatusCode) && len(avoid)+1 < len(b.snap.Load().usable)
			if !again || !b.budget.spend() {
				res.Body = leased(res.Body, func(err error) {
					lease.Done(Result{Err: err, Status: res.StatusCode, Latency: latency, Ignored: err != nil && ctx.Err() != nil})
				})
				return res, nil
			}
			res.Body.Close()
			lease.Done(Result{Status: res.StatusCode, Latency: latency})
			failure = errStatus
		} else {
			lease.Done(Result{Err: err, Latency: latency, Ignored: ctx.Err() != nil})
			if failure = err; !again || !unsentError(err) && !b.o.Retry.Idempotent(r) {
				return nil, err
			}
			if !b.budget.spend() {
				b.noRetry.Add(1)
				return nil, err
			}
		}
		b.retries.Add(1)
		if h := b.o.Hooks; h != nil && h.Retry != nil {
			h.Retry(be, failure)
		}
		avoid = append(avoid, be)
	}
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
