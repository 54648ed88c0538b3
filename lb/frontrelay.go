package lb

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
)

var errClientLeft = errors.New("lb: the client left")

// exchange forwards the request that was read, as exchange.serve does for net/http. again is whether the connection may
// be used again; passed, that nothing was done and net/http should serve the request.
func (c *frontConn) exchange() (again, passed bool) {
	b := c.f.b
	if c.state.enter(phasePicking, c.now()) >= phaseLate {
		return false, false
	}
	key, idempotent := c.usual, c.head.Idempotent
	c.bound = ""
	if c.custom {
		r, err := c.request()
		if err != nil {
			return c.fail(&clientError{err}), false
		}
		x := exchange{Attempts: b.Attempts(Key{}), r: r}
		key, idempotent = x.keyOf(), b.o.Retry.Idempotent(r)
		c.bound = x.bound
	}
	if b.o.MaxBody > 0 && c.head.Length > b.o.MaxBody {
		return c.fail(&http.MaxBytesError{Limit: b.o.MaxBody}), false
	}
	c.Attempts = b.Attempts(key)
	defer func() { c.Attempts = Attempts{} }()
	for c.Next(context.Background()) {
		be := c.Pick.b
		if be.ep.Load().Scheme != "http" { // has just joined
			c.Pick.Done(Result{Ignored: true})
			if c.Err == nil {
				return false, true
			}
			break
		}
		out, keep := c.attempt(be, idempotent)
		c.Pick.Done(Result{Err: out.Err, Status: out.Status, Latency: out.Latency, Ignored: out.Client})
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
	return c.fail(c.Err), false
}

// attempt is exchange.http1 for a front.
func (c *frontConn) attempt(be *Backend, idempotent bool) (out http1.Outcome, keep bool) {
	start := time.Now()
	up, err := be.pool.Get(context.Background(), !idempotent, false)
	if err != nil {
		return http1.Outcome{Err: err, Unsent: true}, false
	}
	out, keep = c.over(up, be, start, idempotent)
	if out.Stale(up, idempotent) {
		if up, err = be.pool.Dial(context.Background(), false); err != nil {
			return http1.Outcome{Err: err, Unsent: true}, false
		}
		out, keep = c.over(up, be, start, idempotent)
	}
	return out, keep
}

// over makes the exchange on one connection of the backend.
func (c *frontConn) over(up *http1.Conn, be *Backend, start time.Time, idempotent bool) (_ http1.Outcome, keep bool) {
	c.outcome = http1.Outcome{} // in c, since what streams an answer keeps a pointer to it
	out := &c.outcome
	up.Untimed()
	up.Out = append(c.head.Append(up.Out[:0], c.raw1, c.peer, c.trusted), c.body...)
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
		be.pool.Put(up)
	} else {
		up.Close()
	}
	return *out, keep && err == nil
}

// inform passes an informational answer on, without the fields of the hop.
func (c *frontConn) inform(up *http1.Conn, head []byte, status int, old bool, out *http1.Outcome) error {
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

// fail answers a request that got no answer, through the same Options.Error as the handler.
func (c *frontConn) fail(failure error) (again bool) {
	w := &errorAnswer{header: http.Header{}}
	r, err := c.request()
	if err != nil {
		r = &http.Request{Method: http.MethodGet, Header: http.Header{}}
	}
	c.f.b.o.Error(w, r, failure)
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

// errorAnswer is the ResponseWriter of Options.Error.
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
