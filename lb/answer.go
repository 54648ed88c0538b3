package lb

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// answer passes a final answer on. keep is whether the connection may be used again.
func (x *exchange) answer(c *conn, be *Backend, head []byte, status int, old bool, out *outcome) (keep bool,
	err error) {
	out.status = status
	if x.Discards(status, x.idempotent && x.resendable()) {
		return false, errDiscarded
	}
	h := x.w.Header()
	had := len(h) > 0
	into := h
	if had {
		into = http.Header{} // a malformed answer must leave no trace in what others have set
	}
	f, err := fields(head, old, into)
	if err != nil {
		if !had {
			clear(h)
		}
		return false, err
	}
	c.br.Discard(len(head) + 2)
	if had {
		for k, v := range into {
			h[k] = append(h[k], v...)
		}
	}
	x.complete(h, be)
	var announced []string
	if f.trailer {
		announced = h["Trailer"]
	}
	out.started = true
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		return !f.close, nil
	}
	switch {
	case f.length >= 0:
		err = x.copyLength(c, f.length, out)
	case f.length == chunked:
		err = x.copyStream(c, c.chunkReader(), out)
		if err == nil {
			err = c.trailers(func(k, v string) {
				if httpfield.Lists(announced, k) {
					h.Add(k, v)
				} else {
					if !out.trailed {
						x.flush() // else a short body would be sent with a length, which leaves no place for trailers
						out.trailed = true
					}
					h.Add(http.TrailerPrefix+k, v)
				}
			})
		}
	default:
		f.close = true
		err = x.copyStream(c, c.br, out)
	}
	return err == nil && !f.close, err
}

// complete adds what the balancer has to say and keeps net/http from guessing a type that the backend did not give.
func (x *exchange) complete(h http.Header, be *Backend) {
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil
	}
	if s := x.b.sticky; s != nil && x.bound != be.id && !public(h) {
		s.bind(h, be.id)
	}
}

// public answers are for shared caches: a cookie in one would bind all clients to a backend.
func public(h http.Header) bool {
	for _, v := range h["Cache-Control"] {
		if v = strings.ToLower(v); strings.Contains(v, "public") || strings.Contains(v, "s-maxage") {
			return true
		}
	}
	return false
}

// wait blocks until the backend has sent more.
func (c *conn) wait(idle time.Duration) error {
	if c.br.Buffered() > 0 {
		return nil
	}
	if idle > 0 {
		c.within(idle)
	}
	_, err := c.br.Peek(1)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// copyLength writes straight out of the connection's buffer. What is large and not yet buffered goes from socket to
// socket (splice on Linux).
func (x *exchange) copyLength(c *conn, n int64, out *outcome) error {
	for n > 0 {
		if n >= 256<<10 && c.br.Buffered() == 0 && c.under != nil {
			if rf, ok := x.w.(io.ReaderFrom); ok {
				if t := x.b.o.Timeouts.Idle; t > 0 {
					c.SetReadDeadline(time.Now().Add(t))
				}
				limit := min(n, 1<<20)
				got, err := rf.ReadFrom(&io.LimitedReader{R: c.Conn, N: limit})
				n -= got
				if err == nil && got < limit {
					err = io.ErrUnexpectedEOF
				}
				if isTimeout(err) && got > 0 {
					err = nil // slow, yet alive
				}
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := c.wait(x.b.o.Timeouts.Idle); err != nil {
			return err
		}
		window, _ := c.br.Peek(int(min(n, int64(c.br.Buffered()))))
		if _, err := x.w.Write(window); err != nil {
			out.client = true
			return err
		}
		c.br.Discard(len(window))
		n -= int64(len(window))
	}
	return nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyStream copies a body of unknown length and flushes before each read from the socket: server-sent events and long
// polls arrive as they are sent, also when the backend's pause falls into the middle of a chunk.
func (x *exchange) copyStream(c *conn, body io.Reader, out *outcome) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	idle := x.b.o.Timeouts.Idle
	c.pause = func() error {
		x.flush()
		if idle > 0 {
			c.SetReadDeadline(time.Now().Add(idle))
		}
		return nil
	}
	defer func() { c.pause = nil }()
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, werr := x.w.Write((*buf)[:n]); werr != nil {
				out.client = true
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) flush() {
	if f, ok := x.w.(http.Flusher); ok {
		f.Flush()
		return
	}
	http.NewResponseController(x.w).Flush()
}
