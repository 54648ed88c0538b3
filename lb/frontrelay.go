package lb

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
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
	key, idempotent := c.key, c.head.again
	c.bound = ""
	if c.custom {
		r, err := c.request()
		if err != nil {
			return c.fail(&clientError{err}), false
		}
		x := exchange{b: b, r: r}
		key, idempotent = x.key(), b.o.Retry.Idempotent(r)
		c.bound = x.bound
	}
	if b.o.MaxBody > 0 && c.head.length > b.o.MaxBody {
		return c.fail(&http.MaxBytesError{Limit: b.o.MaxBody}), false
	}
	c.avoid = c.store[:0]
	defer clear(c.store[:])
	var failure error
	for {
		lease, err := b.pick(context.Background(), key, c.avoid)
		if err != nil {
			if failure == nil || !errors.Is(err, ErrNoBackend) {
				failure = err
			}
			break
		}
		be := lease.b
		if be.ep.Load().Scheme != "http" { // has just joined
			lease.Done(Result{Ignored: true})
			if failure == nil {
				return false, true
			}
			break
		}
		c.last = len(c.avoid) >= b.o.Retry.Max
		out, keep := c.attempt(be, idempotent)
		lease.Done(Result{Err: out.err, Status: out.status, Latency: out.latency, Ignored: out.client})
		if out.err == nil {
			return keep, false
		}
		if out.started || out.client {
			return false, false
		}
		failure = out.err
		if c.last || !out.unsent && !idempotent {
			break
		}
		if !b.budget.spend() {
			b.noRetry.Add(1)
			break
		}
		b.retries.Add(1)
		if h := b.o.Hooks; h != nil && h.Retry != nil {
			h.Retry(be, failure)
		}
		c.avoid = append(c.avoid, be)
	}
	return c.fail(failure), false
}

// attempt is exchange.http1 for a front.
func (c *frontConn) attempt(be *Backend, idempotent bool) (out outcome, keep bool) {
	start := time.Now()
	up, err := be.pool.get(context.Background(), !idempotent)
	if err != nil {
		return outcome{err: err, unsent: true}, false
	}
	out, keep, silent := c.over(up, be, start, idempotent)
	if silent && up.used && !out.started && !out.client && (out.unsent || idempotent) {
		be.pool.dials.Add(1)
		nc, err := c.f.b.o.Dial(context.Background(), "tcp", be.pool.addr)
		if err != nil {
			return outcome{err: err, unsent: true}, false
		}
		out, keep, _ = c.over(newConn(nc), be, start, idempotent)
	}
	return out, keep
}

// over makes the exchange on one connection of the backend. silent means that it failed before a byte of an answer came.
func (c *frontConn) over(up *conn, be *Backend, start time.Time, idempotent bool) (out outcome, keep, silent bool) {
	up.untimed()
	up.out = append(c.appendHead(up.out[:0]), c.body...)
	c.up.Store(up)
	c.state.enter(phaseWaiting, c.now())
	pool := false
	var err error
	func() {
		var n int
		if n, err = up.Write(up.out); err != nil {
			out.unsent, silent = n == 0, true
			return
		}
		for {
			var head []byte
			if head, err = up.head(); err != nil {
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
				pool, keep, err = c.answer(up, be, head, status, old, idempotent, &out)
				return
			}
			if status == http.StatusSwitchingProtocols {
				err = errors.New("lb: 101 without a request for it")
				return
			}
			if err = c.inform(up, head, status, old, &out); err != nil {
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
	return out, keep && err == nil, silent
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
	if _, err := c.Conn.Write(c.out); err != nil {
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

// answer passes a final answer on. pool is whether the backend's connection may be used again, keep the client's.
func (c *frontConn) answer(up *conn, be *Backend, head []byte, status int, old, idempotent bool, out *outcome) (pool, keep bool, err error) {
	b := c.f.b
	if b.o.Retry.Statuses != nil && slices.Contains(b.o.Retry.Statuses, status) && !c.last && idempotent && len(c.avoid)+1 < len(b.snap.Load().usable) {
		return false, false, errStatus
	}
	var a answerHead
	if c.out, err = a.rewrite(c.out[:0], head, status, old, c.binder(be)); err != nil {
		return false, false, err
	}
	up.br.Discard(len(head) + 2)
	bare := c.head.noBody || status == http.StatusNoContent || status == http.StatusNotModified
	switch {
	case status == http.StatusNoContent:
	case a.length >= 0:
		c.out = append(c.out, "Content-Length: "...)
		c.out = append(strconv.AppendInt(c.out, a.length, 10), '\r', '\n')
	case !bare:
		c.out = append(c.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if !a.dated {
		c.out = append(c.out, "Date: "...)
		c.out = append(time.Now().UTC().AppendFormat(c.out, http.TimeFormat), '\r', '\n')
	}
	keep = !c.head.close && !c.closing()
	if !keep {
		c.out = append(c.out, "Connection: close\r\n"...)
	}
	c.out = append(c.out, '\r', '\n')
	if err := c.relaying(); err != nil {
		return false, false, err
	}
	out.started = true
	switch {
	case bare:
		err = c.flush(out)
	case a.length >= 0:
		err = c.copyLength(up, a.length, out)
	case a.length == chunked:
		err = c.copyChunks(up, up.chunkReader(), true, out)
	default:
		a.close = true
		err = c.copyChunks(up, up.br, false, out)
	}
	return err == nil && !a.close, keep, err
}

// binder adds a sticky cookie to an answer; nil when there is nothing to add.
func (c *frontConn) binder(be *Backend) func(http.Header) {
	s := c.f.b.sticky
	if s == nil || c.bound == be.id {
		return nil
	}
	return func(h http.Header) {
		if !public(h) {
			s.bind(h, be.id)
		}
	}
}

// flush writes what has been built of the answer.
func (c *frontConn) flush(out *outcome) error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		out.client = true
	}
	return err
}

func (c *frontConn) relaying() error {
	if was := c.state.enter(phaseRelaying, c.now()); was >= phaseLate {
		c.state.enter(was, c.now()) // over judges it
		return errClientLeft
	}
	return nil
}

// copyLength sends head and body in one write where the body has come already; what is large goes from socket to
// socket (splice on Linux).
func (c *frontConn) copyLength(up *conn, n int64, out *outcome) error {
	for {
		window, _ := up.br.Peek(int(min(n, int64(up.br.Buffered()))))
		c.out = append(c.out, window...)
		up.br.Discard(len(window))
		n -= int64(len(window))
		if err := c.flush(out); err != nil || n == 0 {
			return err
		}
		if err := c.relaying(); err != nil {
			return err
		}
		if n >= 64<<10 && c.reader != nil && up.raw != nil {
			got, err := c.reader.ReadFrom(&io.LimitedReader{R: up.Conn, N: min(n, 256<<10)})
			if n -= got; err != nil {
				return err
			}
			if got == 0 {
				return io.ErrUnexpectedEOF
			}
			if n == 0 {
				return nil
			}
			continue
		}
		if _, err := up.br.Peek(1); err != nil {
			return unexpected(err)
		}
	}
}

// copyChunks sends a body of unknown length as chunks, and all that there is whenever the backend pauses.
func (c *frontConn) copyChunks(up *conn, body io.Reader, trailers bool, out *outcome) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	up.pause = func() error {
		if err := c.relaying(); err != nil {
			return err
		}
		return c.flush(out)
	}
	defer func() { up.pause = nil }()
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			c.out = strconv.AppendInt(c.out, int64(n), 16)
			c.out = append(c.out, '\r', '\n')
			c.out = append(c.out, (*buf)[:n]...)
			c.out = append(c.out, '\r', '\n')
			if len(c.out) >= 16<<10 {
				if err := c.relaying(); err != nil {
					return err
				}
				if err := c.flush(out); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	c.out = append(c.out, "0\r\n"...)
	if trailers {
		if err := up.trailers(func(k, v string) { c.out = appendField(c.out, k, v) }); err != nil {
			return unexpected(err)
		}
	}
	c.out = append(c.out, '\r', '\n')
	return c.flush(out)
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

// answerHead is how a backend's answer is framed, and what else its rewriting has found.
type answerHead struct {
	framing
	dated bool
}

// rewrite appends the head as the client gets it, up to what tells the body's length. It refuses what fields refuses.
func (a *answerHead) rewrite(out, head []byte, status int, old bool, bind func(http.Header)) ([]byte, error) {
	a.framing = framing{length: untilClose, close: old}
	i := 9
	for i < len(head) && valueChar[head[i]] {
		i++
	}
	if i+1 >= len(head) || head[i] != '\r' || head[i+1] != '\n' {
		return out, errBadResponse
	}
	out = append(out, "HTTP/1.1 "...)
	out = append(out, head[9:i]...)
	if i == 12 {
		out = append(out, ' ')
	}
	out = append(out, '\r', '\n')
	begun := len(out)
	i += 2
	run, isChunked, slow := i, false, bind != nil
	for i < len(head) {
		start := i
		for i < len(head) && tokenChar[head[i]] {
			i++
		}
		if i == start || i >= len(head) || head[i] != ':' {
			return out, errBadResponse
		}
		name := head[start:i]
		i++
		from := i
		for i < len(head) && valueChar[head[i]] {
			i++
		}
		if i+1 >= len(head) || head[i] != '\r' || head[i+1] != '\n' {
			return out, errBadResponse
		}
		v := trimmed(head, from, i)
		value := head[v.from:v.to]
		i += 2
		drop := false
		switch len(name) {
		case 2:
			drop = equalFold(name, "te")
		case 4:
			a.dated = a.dated || equalFold(name, "date")
		case 7:
			if drop = equalFold(name, "upgrade"); !drop && equalFold(name, "trailer") {
				a.trailer = true
			}
		case 10:
			if equalFold(name, "connection") {
				drop = true
				switch {
				case equalFold(value, "close"):
					a.close = true
				case equalFold(value, "keep-alive"):
					if old {
						slow = true // several lines may contradict one another
					}
				default:
					slow = true
				}
			} else {
				drop = equalFold(name, "keep-alive")
			}
		case 14:
			if equalFold(name, "content-length") {
				n, ok := digits(value)
				if !ok || a.length >= 0 && a.length != n {
					return out, errBadResponse
				}
				a.length, drop = n, true
			}
		case 16:
			drop = equalFold(name, "proxy-connection")
		case 17:
			if equalFold(name, "transfer-encoding") {
				if isChunked || !equalFold(value, "chunked") {
					return out, errBadResponse
				}
				isChunked, drop = true, true
			}
		case 18:
			drop = equalFold(name, "proxy-authenticate")
		}
		if drop {
			out = append(out, head[run:start]...)
			run = i
		}
	}
	out = append(out, head[run:i]...)
	if slow { // fields of the hop by name, or a cookie to add
		h := http.Header{}
		f, err := fields(head, old, h)
		if err != nil {
			return out, err
		}
		a.framing = f
		delete(h, "Content-Length")
		if bind != nil {
			bind(h)
		}
		return appendFields(out[:begun], h), nil
	}
	if isChunked {
		a.close = a.close || a.length >= 0 || old
		a.length = chunked
	}
	return out, nil
}
