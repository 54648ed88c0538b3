package lb

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"
)

var errClientLeft = errors.New("lb: the client left")

// exchange forwards the request that was read, as exchange.serve does for net/http. again is whether the connection may
// be used again; passed, that nothing was done and net/http should serve the request.
func (c *frontConn) exchange() (again, passed bool) {
	b := c.f.b
	if c.state.enter(phasePicking, c.now()) >= phaseLate {
		return false, false
	}
	key, idempotent := c.usual, c.head.again
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
	if b.o.MaxBody > 0 && c.head.length > b.o.MaxBody {
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
		c.Pick.Done(Result{Err: out.err, Status: out.status, Latency: out.latency, Ignored: out.client})
		if out.err == nil {
			return keep, false
		}
		if out.started || out.client {
			return false, false
		}
		if !c.Again(out.err, out.safeToRetry(idempotent)) {
			break
		}
	}
	return c.fail(c.Err), false
}

// attempt is exchange.http1 for a front.
func (c *frontConn) attempt(be *Backend, idempotent bool) (out outcome, keep bool) {
	start := time.Now()
	up, err := be.pool.get(context.Background(), !idempotent, false)
	if err != nil {
		return outcome{err: err, unsent: true}, false
	}
	out, keep, silent := c.over(up, be, start, idempotent)
	if up.used && out.stale(silent, idempotent) {
		if up, err = be.pool.dial(context.Background(), false); err != nil {
			return outcome{err: err, unsent: true}, false
		}
		out, keep, _ = c.over(up, be, start, idempotent)
	}
	return out, keep
}

// over makes the exchange on one connection of the backend. silent means that it failed before a byte of an answer
// came.
func (c *frontConn) over(up *conn, be *Backend, start time.Time, idempotent bool) (_ outcome, keep, silent bool) {
	c.outcome = outcome{} // in c, since what streams an answer keeps a pointer to it
	out := &c.outcome
	up.untimed()
	up.out = append(c.appendHead(up.out[:0]), c.body...)
	c.up.Store(up)
	c.state.enter(phaseWaiting, c.now())
	pool := false
	var err error
	func() {
		up.ask(up.out)
		for {
			var head []byte
			if head, err = up.head(); err != nil {
				out.unsent = up.unsent()
				silent = len(head) == 0 && up.br.Buffered() == 0
				return
			}
			out.latency = time.Since(start)
			var status int
			var old bool
			if status, old, err = statusOf(head); err != nil {
				return
			}
			if status >= 200 {
				out.status = status
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
		err, silent = os.ErrDeadlineExceeded, false
	case phaseLeft:
		err, silent, out.client = errClientLeft, false, true
	}
	if out.err = err; err == nil && pool {
		be.pool.put(up)
	} else {
		up.Close()
	}
	return *out, keep && err == nil, silent
}

// appendHead writes the request as it goes to the backend, as exchange.appendHead does.
func (c *frontConn) appendHead(out []byte) []byte {
	h, b := &c.head, c.raw1
	out = append(out, b[:h.line]...)
	for _, s := range h.kept {
		out = append(out, b[s.from:s.to]...)
	}
	out = h.appendForwarded(out, b, c.peer, c.trusted)
	if h.te {
		out = append(out, "Te: trailers\r\n"...)
	}
	if h.length > 0 || h.payload {
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, h.length, 10)
		out = append(out, '\r', '\n')
	}
	return append(out, '\r', '\n')
}

// inform passes an informational answer on, without the fields of the hop.
func (c *frontConn) inform(up *conn, head []byte, status int, old bool, out *outcome) error {
	h := http.Header{}
	if _, err := fields(head, old, h); err != nil {
		return err
	}
	up.br.Discard(len(head) + 2)
	if status == http.StatusContinue {
		return nil
	}
	b := append(c.out[:0], "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, '\r', '\n')
	c.out = append(appendFields(b, h), '\r', '\n')
	if _, err := c.socket.Write(c.out); err != nil {
		out.client = true
		return err
	}
	return nil
}

func appendFields(b []byte, h http.Header) []byte {
	for k, vs := range h {
		for _, v := range vs {
			b = appendField(b, k, v)
		}
	}
	return b
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
	b = appendFields(append(b, '\r', '\n'), w.header)
	b = append(b, "Content-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(w.body)), 10), '\r', '\n')
	again = !c.head.close && !c.closing()
	if !again {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, '\r', '\n')
	if !c.head.noBody {
		b = append(b, w.body...)
	}
	c.state.enter(phaseRelaying, c.now())
	c.out = b
	_, err = c.socket.Write(b)
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
