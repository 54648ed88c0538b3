package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
)

// Handler is a reverse proxy over the pool. To "http" backends it speaks HTTP/1.1 over connections of its own, to
// "https" and "h2c" ones through an http.Transport. It passes informational answers, trailers, upgrades with all early
// bytes, and streams without a known length at once; a client that leaves ends its request at the backend, within about
// 0.1 s. A request that fails once its answer has begun is cut off with [http.ErrAbortHandler].
//
// Invalid options are an error that names the field.
func (b *Balancer) Handler(o ProxyOptions) (*Handler, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Handler{b: b, o: o}
	if o.Sticky != nil {
		if h.sticky, err = newBinding(*o.Sticky); err != nil {
			return nil, err
		}
	}
	reserve := holdReserve(o.HeapReserve)
	b.mu.Lock()
	if !b.closed && len(reserve) > len(b.reserve) {
		b.reserve = reserve
	}
	b.mu.Unlock()
	return h, nil
}

// Handler is the http.Handler that [Balancer.Handler] returns. It is safe for concurrent use.
type Handler struct {
	b      *Balancer
	o      ProxyOptions
	sticky *binding // nil: off
}

// Key returns the key that the handler picks with: the hash by Options.Key, what r is to the adaptive limit, and the
// backend that r is bound to by a sticky cookie.
func (h *Handler) Key(r *http.Request) Key {
	k := h.b.rank(r)
	k.Hash, k.Keyed = h.b.hash(r, ClientAddr(r, h.o.TrustedProxies))
	if h.sticky != nil {
		k.Sticky = h.sticky.read(r)
	}
	return k
}

// Bind adds a sticky cookie for be to the header of an answer to a request with key k. It does nothing without
// ProxyOptions.Sticky, if the request is bound to be already, and in answers that shared caches may keep.
func (h *Handler) Bind(header http.Header, k Key, be *Backend) {
	if h.sticky != nil && k.Sticky != be.id && !public(header) {
		h.sticky.bind(header, be.id)
	}
}

// Fail answers a request that got no answer, as ProxyOptions.Error says. Unless the client is the cause, it counts the
// failure (Stats.Failures) and logs it with its cause, at most once a minute.
func (h *Handler) Fail(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, ErrClient) && !errors.Is(err, context.Canceled) {
		h.b.failures.Add(err)
		h.b.log.Warn("forward", "lb: a request got no answer", "method", r.Method, "host", r.Host, "path", r.URL.Path,
			"error", err)
	}
	h.o.Error(w, r, err)
}

// exchange is one client request on its way to an answer, over one attempt or several.
type exchange struct {
	Attempts
	h          *Handler
	w          http.ResponseWriter
	r          *http.Request
	trusted    bool // the peer may tell where the request came from
	upgrade    string
	expect     bool // the client waits for 100 Continue
	idempotent bool
	body       bodyKind
	kept       []byte // the body, when it is kept
	begun      bool   // bytes of the body were read from the client
	hedge      bool   // may be sent to two backends at once
	hedged     bool   // was sent to two backends at once
	trailed    bool   // flushed for a trailer
}

type bodyKind uint8

const (
	bodyNone     bodyKind = iota
	bodyKept              // small: read before the backend is picked, may be sent again
	bodyStreamed          // passed on as it comes
)

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// ServeHTTP forwards r to a backend and passes the answer on.
func (p *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	kept := x.kept[:0]
	*x = exchange{Attempts: p.b.Attempts(Key{}), h: p, w: w, r: r, kept: kept}
	abort := x.serve()
	x.Attempts, x.h, x.w, x.r = Attempts{}, nil, nil, nil
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
	r := x.r
	if err := x.prepare(); err != nil {
		x.h.Fail(x.w, r, err)
		return false
	}
	x.key = x.h.Key(r)
	for x.Next(r.Context()) {
		out := x.attempt()
		if out.Err == nil {
			return false
		}
		if out.Started {
			return true
		}
		if !x.Again(out.Err, r.Context().Err() == nil && out.SafeToRetry(x.idempotent && x.resendable())) {
			break
		}
	}
	failure := x.Failure()
	if c := context.Cause(r.Context()); c != nil {
		failure = c
	}
	x.h.Fail(x.w, r, failure)
	return false
}

func (x *exchange) resendable() bool { return x.body != bodyStreamed || !x.begun }

// prepare looks at the request before a backend is taken for it.
func (x *exchange) prepare() error {
	r, o := x.r, &x.h.o
	if len(o.TrustedProxies) > 0 {
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			x.trusted = within(o.TrustedProxies, peer.Addr().Unmap().WithZone(""))
		}
	}
	x.upgrade = upgradeOf(r)
	x.idempotent = x.upgrade == "" && x.b.idempotent(r)
	x.hedge = x.idempotent && x.b.o.Hedge.on() && x.b.o.Hedge.wants(r)
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
	if x.expect || r.ContentLength < 0 || r.ContentLength > x.b.o.Retry.MaxBody || len(r.Trailer) > 0 {
		x.body = bodyStreamed
		return nil
	}
	x.body = bodyKept
	n := int(r.ContentLength)
	x.kept = slices.Grow(x.kept[:0], n)[:n]
	if _, err := io.ReadFull(r.Body, x.kept); err != nil {
		return clientError(err)
	}
	return nil
}

// http1 sends the request over a connection of the pool. A connection that turns out to have been closed while it was
// idle says nothing about the backend: a request that may be sent again gets a new connection to the same backend.
func (x *exchange) http1(be *Backend) http1.Outcome {
	ctx := x.r.Context()
	start := time.Now()
	look := x.looked(ctx)
	c, err := be.pool.Get(ctx, !x.idempotent, look)
	if err != nil {
		return http1.Outcome{Err: err, Unsent: true}
	}
	out := x.over(c, be, start)
	if out.Stale(c, x.idempotent && x.resendable()) && ctx.Err() == nil {
		if c, err = be.pool.Dial(ctx, look); err != nil {
			return http1.Outcome{Err: err, Unsent: true}
		}
		out = x.over(c, be, start)
	}
	return out
}

// looked is whether the pool's looking at ctx is enough.
func (x *exchange) looked(ctx context.Context) bool {
	_, timed := ctx.Deadline()
	return !timed && !x.b.o.Hedge.on()
}

// over makes the exchange on one connection.
func (x *exchange) over(c *http1.Conn, be *Backend, start time.Time) (out http1.Outcome) {
	ctx := x.r.Context()
	var err error
	if c.Out, err = x.appendHead(c.Out[:0]); err != nil {
		be.pool.Put(c)
		return http1.Outcome{Err: clientError(err), Client: true}
	}
	var stop func() bool
	if !c.Watched() {
		stop = context.AfterFunc(ctx, c.Abort)
	}
	keep := false
	defer func() {
		if (stop == nil || stop()) && keep {
			be.pool.Put(c)
		} else {
			be.pool.Drop(c)
		}
	}()
	var s *sender
	if t := x.b.o.Timeouts.Header; t > 0 && x.body != bodyStreamed {
		c.Within(t)
	} else {
		c.Untimed()
	}
	switch x.body {
	case bodyKept:
		c.Out = append(c.Out, x.kept...)
		fallthrough
	case bodyNone:
		c.Ask(c.Out)
	default:
		if n, err := c.Write(c.Out); err != nil {
			return http1.Outcome{Err: err, Unsent: n == 0, Silent: true}
		}
		s = x.send(c)
		defer func() {
			if !s.finish(x, c) {
				keep = false
			}
		}()
	}
	for {
		head, err := c.Head()
		if err != nil {
			if c.Unsent() {
				return http1.Outcome{Err: err, Unsent: true, Silent: true}
			}
			if s != nil {
				if s.finish(x, c); fromClient(s.err) {
					return http1.Outcome{Err: s.err, Client: true}
				}
			}
			silent := len(head) == 0 && c.Reader.Buffered() == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
			return http1.Outcome{Err: err, Silent: silent}
		}
		out.Latency = time.Since(start)
		status, old, err := http1.Status(head)
		if err != nil {
			return http1.Outcome{Err: err}
		}
		if status >= 200 {
			keep, err = x.answer(c, be, head, status, old, &out)
			out.Err = err
			return out
		}
		if status == http.StatusSwitchingProtocols {
			out.Status = status
			if stop == nil { // it may last for days, and there may be many
				be.pool.Release(c)
				stop = context.AfterFunc(ctx, c.Abort)
			}
			out.Err = x.tunnel(c, be, head, &out)
			return out
		}
		if err := x.inform(c, head, status, old, s); err != nil {
			return http1.Outcome{Err: err}
		}
	}
}

// inform passes an informational answer on, without the fields of the hop.
func (x *exchange) inform(c *http1.Conn, head []byte, status int, old bool, s *sender) error {
	h := http.Header{}
	if _, err := http1.ParseFields(head, old, h); err != nil {
		return err
	}
	c.Reader.Discard(len(head) + 2)
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

// clientError marks a failure that the client caused: nothing that a backend is to blame for.
func clientError(err error) error { return fmt.Errorf("%w: %w", ErrClient, err) }

// writeError is the default of Options.Error.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNoBackend), errors.Is(err, ErrClosed), errors.Is(err, ErrOverloaded):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case errors.Is(err, ErrClient):
		status = http.StatusBadRequest
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}
