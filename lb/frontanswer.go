package lb

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// answer passes a final answer on. pool is whether the backend's connection may be used again, keep the client's.
func (c *frontConn) answer(up *conn, be *Backend, head []byte, status int, old, idempotent bool, out *outcome) (pool,
	keep bool, err error) {
	if c.Discards(status, idempotent) {
		return false, false, errDiscarded
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
	_, err := c.socket.Write(c.out)
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
		if n >= 64<<10 && c.reader != nil && up.under != nil {
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
