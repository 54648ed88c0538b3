package lb

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// Handler is a reverse proxy over the pool. To "http" backends it speaks HTTP/1.1 over connections of its own, to
// "https" and "h2c" ones through an http.Transport. It passes informational answers, trailers, upgrades with all early
// bytes, and streams without a known length at once; a client that leaves ends its request at the backend, within about
// 0.1 s. A request that fails once its answer has begun is cut off with [http.ErrAbortHandler].
func (b *Balancer) Handler() http.Handler {
	b.mu.Lock()
	if !b.closed && b.reserve == nil {
		b.reserve = holdReserve(b.o.HeapReserve)
	}
	b.mu.Unlock()
	return proxy{b}
}

type proxy struct{ b *Balancer }

// exchange is one client request on its way to an answer, over one attempt or several.
type exchange struct {
	Attempts
	w          http.ResponseWriter
	r          *http.Request
	trusted    bool // the peer may tell where the request came from
	upgrade    string
	expect     bool // the client waits for 100 Continue
	idempotent bool
	body       bodyKind
	kept       []byte // the body, when it is kept
	bound      string // backend that the sticky cookie names
	begun      bool   // bytes of the body were read from the client
	hedged     bool   // was sent to two backends at once
}

type bodyKind uint8

const (
	bodyNone     bodyKind = iota
	bodyKept              // small: read before the backend is picked, may be sent again
	bodyStreamed          // passed on as it comes
)

// outcome of one attempt.
type outcome struct {
	err     error
	unsent  bool // no byte of the request can have been processed
	started bool // bytes of the answer went to the client
	client  bool // the client caused err
	status  int
	latency time.Duration
	trailed bool // flushed for a trailer
}

// safeToRetry reports whether the request may be sent again, to whatever backend: no byte of an answer went to the
// client, who is not the cause, and the request was not sent or may be sent twice (repeatable).
func (o *outcome) safeToRetry(repeatable bool) bool {
	return !o.started && !o.client && (o.unsent || repeatable)
}

// stale reports whether a failed exchange over a connection that was used before says nothing about the backend, which
// had closed the connection while it was idle: no byte of an answer came (silent). Such a request gets a new connection
// to the same backend if it may be sent again.
func (o *outcome) stale(silent, repeatable bool) bool { return silent && o.safeToRetry(repeatable) }

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func (p proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	kept := x.kept[:0]
	*x = exchange{Attempts: p.b.Attempts(Key{}), w: w, r: r, kept: kept}
	abort := x.serve()
	x.Attempts, x.w, x.r = Attempts{}, nil, nil
	if cap(x.kept) > 128<<10 {
		x.kept = nil
	}
	exchanges.Put(x)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// serve answers the request; abort means that the answer is broken off.
func (x *exchange) serve() (abort bool) {
	b, r := x.b, x.r
	if err := x.prepare(); err != nil {
		b.o.Error(x.w, r, err)
		return false
	}
	x.key = x.keyOf()
	for x.Next(r.Context()) {
		out := x.attempt()
		if out.err == nil {
			return false
		}
		if out.started {
			return true
		}
		if !x.Again(out.err, r.Context().Err() == nil && out.safeToRetry(x.idempotent && x.resendable())) {
			break
		}
	}
	failure := x.Err
	if c := context.Cause(r.Context()); c != nil {
		failure = c
	}
	b.o.Error(x.w, r, failure)
	return false
}

func (x *exchange) resendable() bool { return x.body != bodyStreamed || !x.begun }

// prepare looks at the request before a backend is taken for it.
func (x *exchange) prepare() error {
	r, o := x.r, &x.b.o
	if len(o.TrustedProxies) > 0 {
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			x.trusted = within(o.TrustedProxies, peer.Addr().Unmap().WithZone(""))
		}
	}
	x.upgrade = upgradeOf(r)
	x.idempotent = x.upgrade == "" && o.Retry.Idempotent(r)
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if o.MaxBody > 0 {
		if r.ContentLength > o.MaxBody {
			return &http.MaxBytesError{Limit: o.MaxBody}
		}
		r.Body = http.MaxBytesReader(x.w, r.Body, o.MaxBody)
	}
	x.expect = len(r.Header["Expect"]) > 0 && httpfield.Lists(r.Header["Expect"], "100-continue")
	if x.expect || r.ContentLength < 0 || r.ContentLength > o.Retry.MaxBody || len(r.Trailer) > 0 {
		x.body = bodyStreamed
		return nil
	}
	x.body = bodyKept
	n := int(r.ContentLength)
	x.kept = slices.Grow(x.kept[:0], n)[:n]
	if _, err := io.ReadFull(r.Body, x.kept); err != nil {
		return &clientError{err}
	}
	return nil
}

func (x *exchange) keyOf() Key {
	k := x.b.rank(x.r)
	k.Hash, k.Keyed = x.b.o.Key(x.r, ClientAddr(x.r, x.b.o.TrustedProxies))
	if x.b.sticky != nil {
		x.bound = x.b.sticky.read(x.r)
		k.Sticky = x.bound
	}
	return k
}

// http1 sends the request over a connection of the pool. A connection that turns out to have been closed while it was
// idle says nothing about the backend: a request that may be sent again gets a new connection to the same backend.
func (x *exchange) http1(be *Backend) outcome {
	ctx := x.r.Context()
	start := time.Now()
	look := x.looked(ctx)
	c, err := be.pool.get(ctx, !x.idempotent, look)
	if err != nil {
		return outcome{err: err, unsent: true}
	}
	out, silent := x.over(c, be, start)
	if c.used && out.stale(silent, x.idempotent && x.resendable()) && ctx.Err() == nil {
		if c, err = be.pool.dial(ctx, look); err != nil {
			return outcome{err: err, unsent: true}
		}
		out, _ = x.over(c, be, start)
	}
	return out
}

// looked is whether the pool's looking at ctx is enough.
func (x *exchange) looked(ctx context.Context) bool {
	_, timed := ctx.Deadline()
	return !timed && !x.b.o.Hedge.on()
}

// over makes the exchange on one connection. silent means that it failed before a byte of an answer came.
func (x *exchange) over(c *conn, be *Backend, start time.Time) (out outcome, silent bool) {
	ctx := x.r.Context()
	var err error
	if c.out, err = x.appendHead(c.out[:0]); err != nil {
		be.pool.put(c)
		return outcome{err: &clientError{err}, client: true}, false
	}
	var stop func() bool
	if c.ctx == nil {
		stop = context.AfterFunc(ctx, c.abort)
	}
	keep := false
	defer func() {
		if (stop == nil || stop()) && keep {
			be.pool.put(c)
		} else {
			be.pool.drop(c)
		}
	}()
	var s *sender
	if t := x.b.o.Timeouts.Header; t > 0 && x.body != bodyStreamed {
		c.within(t)
	} else {
		c.untimed()
	}
	switch x.body {
	case bodyKept:
		c.out = append(c.out, x.kept...)
		fallthrough
	case bodyNone:
		c.ask(c.out)
	default:
		if n, err := c.Write(c.out); err != nil {
			return outcome{err: err, unsent: n == 0}, true
		}
		s = x.send(c)
		defer func() {
			if !s.finish(x, c) {
				keep = false
			}
		}()
	}
	for {
		head, err := c.head()
		if err != nil {
			if c.unsent() {
				return outcome{err: err, unsent: true}, true
			}
			if s != nil {
				if s.finish(x, c); fromClient(s.err) {
					return outcome{err: s.err, client: true}, false
				}
			}
			return outcome{err: err}, len(head) == 0 && c.br.Buffered() == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
		}
		out.latency = time.Since(start)
		status, old, err := statusOf(head)
		if err != nil {
			return outcome{err: err}, false
		}
		if status >= 200 {
			keep, err = x.answer(c, be, head, status, old, &out)
			out.err = err
			return out, false
		}
		if status == http.StatusSwitchingProtocols {
			out.status = status
			if stop == nil { // it may last for days, and there may be many
				be.pool.forsake(c)
				stop = context.AfterFunc(ctx, c.abort)
			}
			out.err = x.tunnel(c, be, head, &out)
			return out, false
		}
		if err := x.inform(c, head, status, old, s); err != nil {
			return outcome{err: err}, false
		}
	}
}

// inform passes an informational answer on, without the fields of the hop.
func (x *exchange) inform(c *conn, head []byte, status int, old bool, s *sender) error {
	h := http.Header{}
	if _, err := fields(head, old, h); err != nil {
		return err
	}
	c.br.Discard(len(head) + 2)
	if status == http.StatusContinue {
		if s != nil {
			s.proceed()
		}
		return nil
	}
	own := x.w.Header()
	saved := own.Clone()
	clear(own)
	for k, v := range h {
		own[k] = v
	}
	x.w.WriteHeader(status)
	clear(own)
	for k, v := range saved {
		own[k] = v
	}
	return nil
}

// clientError is a failure of the client's side: nothing that a backend is to blame for.
type clientError struct{ err error }

func (e *clientError) Error() string { return "lb: client: " + e.err.Error() }
func (e *clientError) Unwrap() error { return e.err }

// writeError is the default of Options.Error.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	var tooLarge *http.MaxBytesError
	var client *clientError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNoBackend), errors.Is(err, ErrClosed), errors.Is(err, ErrOverloaded):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case errors.As(err, &client):
		status = http.StatusBadRequest
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}
