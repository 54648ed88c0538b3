package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/lb"
)

var errClientLeft = errors.New("lb: the client left")

// exchange forwards the request that was read, as exchange.serve does for net/http. again is whether the connection may
// be used again; passed, that nothing was done and net/http should serve the request.
func (c *conn) exchange() (again, passed bool) {
	b := c.f.b
	if c.state.enter(phasePicking, c.now()) >= phaseLate {
		return false, false
	}
	key, idempotent := c.usual, c.head.Idempotent
	if c.custom {
		r, err := c.request()
		if err != nil {
			return c.fail(fmt.Errorf("%w: %w", lb.ErrClient, err)), false
		}
		key = c.f.h.Key(r)
		if f := c.f.pool.Retry.Idempotent; f != nil {
			idempotent = f(r)
		}
	}
	if most := c.f.o.Proxy.MaxBody; most > 0 && c.head.Length > most {
		return c.fail(&http.MaxBytesError{Limit: most}), false
	}
	c.Attempts = b.Attempts(key)
	c.key = key
	defer func() { c.Attempts = lb.Attempts{} }()
	for c.Next(context.Background()) {
		be := c.Pick.Backend()
		if be.Endpoint().Scheme != "http" { // has just joined
			c.Pick.Cancel(lb.Result{})
			if c.Err == nil {
				return false, true
			}
			break
		}
		out, keep := c.attempt(be, idempotent)
		if res := (lb.Result{Err: out.Err, Status: out.Status, Latency: out.Latency}); out.Client {
			c.Pick.Cancel(res)
		} else {
			c.Pick.Done(res)
		}
		if out.Err == nil {
			return keep, false
		}
		if out.Started || out.Client {
			return false, false
		}
		if !c.Again(out.Err, out.SafeToRetry(idempotent)) {
			break
		}
	}
	return c.fail(c.Failure()), false
}

// attempt is exchange.http1 for a front.
func (c *conn) attempt(be *lb.Backend, idempotent bool) (out http1.Outcome, keep bool) {
	start := time.Now()
	up, err := be.Conns().Get(context.Background(), !idempotent, false)
	if err != nil {
		return http1.Outcome{Err: err, Unsent: true}, false
	}
	out, keep = c.over(up, be, start, idempotent)
	if out.Stale(up, idempotent) {
		if up, err = be.Conns().Dial(context.Background(), false); err != nil {
			return http1.Outcome{Err: err, Unsent: true}, false
		}
		out, keep = c.over(up, be, start, idempotent)
	}
	return out, keep
}

// over makes the exchange on one connection of the backend.
func (c *conn) over(up *http1.Conn, be *lb.Backend, start time.Time, idempotent bool) (_ http1.Outcome, keep bool) {
	c.outcome = http1.Outcome{} // in c, since what streams an answer keeps a pointer to it
	out := &c.outcome
	up.Untimed()
	up.Out = append(c.head.Append(up.Out[:0], c.raw, c.peer, c.trusted), c.body...)
	c.up.Store(up)
	c.state.enter(phaseWaiting, c.now())
	pool := false
	var err error
	func() {
		up.Ask(up.Out)
		for {
			var head []byte
			if head, err = up.Head(); err != nil {
				out.Unsent = up.Unsent()
				out.Silent = len(head) == 0 && up.Reader.Buffered() == 0
				return
			}
			out.Latency = time.Since(start)
			var status int
			var old bool
			if status, old, err = http1.Status(head); err != nil {
				return
			}
			if status >= 200 {
				out.Status = status
				pool, keep, err = c.answer(up, be, head, status, old, idempotent, out)
				return
			}
			if status == http.StatusSwitchingProtocols {
				err = errors.New("lb: 101 without a request for it")
				return
			}
			if err = c.inform(up, head, status, old, out); err != nil {
				return
			}
		}
	}()
	was := c.state.enter(phasePicking, c.now())
	c.up.Store(nil)
	switch was {
	case phaseLate:
		err, out.Silent = os.ErrDeadlineExceeded, false
	case phaseLeft:
		err, out.Silent, out.Client = errClientLeft, false, true
	}
	if out.Err = err; err == nil && pool {
		be.Conns().Put(up)
	} else {
		up.Close()
	}
	return *out, keep && err == nil
}

// inform passes an informational answer on, without the fields of the hop.
func (c *conn) inform(up *http1.Conn, head []byte, status int, old bool, out *http1.Outcome) error {
	h := http.Header{}
	if _, err := http1.ParseFields(head, old, h); err != nil {
		return err
	}
	up.Reader.Discard(len(head) + 2)
	if status == http.StatusContinue {
		return nil
	}
	b := append(c.out[:0], "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, '\r', '\n')
	c.out = append(http1.AppendFields(b, h), '\r', '\n')
	if _, err := c.Conn.Write(c.out); err != nil {
		out.Client = true
		return err
	}
	return nil
}

// fail answers a request that got no answer, as the handler does.
func (c *conn) fail(failure error) (again bool) {
	w := &errorAnswer{header: http.Header{}}
	r, err := c.request()
	if err != nil {
		r = &http.Request{Method: http.MethodGet, Header: http.Header{}}
	}
	c.f.h.Fail(w, r, failure)
	if w.status == 0 {
		w.status = http.StatusBadGateway
	}
	w.header.Del("Content-Length")
	b := append(c.out[:0], "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(w.status), 10), ' ')
	b = append(b, http.StatusText(w.status)...)
	b = http1.AppendFields(append(b, '\r', '\n'), w.header)
	b = append(b, "Content-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(w.body)), 10), '\r', '\n')
	again = !c.head.Close && !c.closing()
	if !again {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, '\r', '\n')
	if !c.head.NoBody {
		b = append(b, w.body...)
	}
	c.state.enter(phaseRelaying, c.now())
	c.out = b
	_, err = c.Conn.Write(b)
	return again && err == nil
}

// errorAnswer is the ResponseWriter of lb.ProxyOptions.Error.
type errorAnswer struct {
	header http.Header
	status int
	body   []byte
}

func (w *errorAnswer) Header() http.Header { return w.header }

func (w *errorAnswer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *errorAnswer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.body = append(w.body, p...)
	return len(p), nil
}
