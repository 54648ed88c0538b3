package lb

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
	"github.com/tierkit/tierkit/internal/socket"
)

// answer passes a final answer on. keep is whether the connection may be used again.
func (x *exchange) answer(c *http1.Conn, be *Backend, head []byte, status int, old bool, out *http1.Outcome) (keep bool,
	err error) {
	out.Status = status
	if err := x.Discards(status, x.idempotent && x.resendable()); err != nil {
		return false, err
	}
	h := x.w.Header()
	had := len(h) > 0
	into := h
	if had {
		into = http.Header{} // a malformed answer must leave no trace in what others have set
	}
	f, err := http1.ParseFields(head, old, into)
	if err != nil {
		if !had {
			clear(h)
		}
		return false, err
	}
	c.Reader.Discard(len(head) + 2)
	if had {
		for k, v := range into {
			h[k] = append(h[k], v...)
		}
	}
	x.complete(h, be)
	var announced []string
	if f.Trailer {
		announced = h["Trailer"]
	}
	out.Started = true
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		return !f.Close, nil
	}
	switch {
	case f.Length >= 0:
		err = x.copyLength(c, f.Length, out)
	case f.Length == http1.Chunked:
		err = x.copyStream(c, c.Chunks(), out)
		if err == nil {
			err = c.Trailers(func(k, v string) {
				if httpfield.Lists(announced, k) {
					h.Add(k, v)
				} else {
					if !x.trailed {
						x.flush() // else a short body would be sent with a length, which leaves no place for trailers
						x.trailed = true
					}
					h.Add(http.TrailerPrefix+k, v)
				}
			})
		}
	default:
		f.Close = true
		err = x.copyStream(c, c.Reader, out)
	}
	return err == nil && !f.Close, err
}

// complete adds what the balancer has to say and keeps net/http from guessing a type that the backend did not give.
func (x *exchange) complete(h http.Header, be *Backend) {
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil
	}
	x.h.Bind(h, x.key, be)
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

// copyLength writes straight out of the connection's buffer. What is large and not yet buffered goes from socket to
// socket (splice on Linux).
func (x *exchange) copyLength(c *http1.Conn, n int64, out *http1.Outcome) error {
	for n > 0 {
		if n >= 256<<10 && c.Reader.Buffered() == 0 && c.Socket() {
			if rf, ok := x.w.(io.ReaderFrom); ok {
				if t := x.b.o.Timeouts.Idle; t > 0 {
					c.SetReadDeadline(time.Now().Add(t))
				}
				limit := min(n, 1<<20)
				got, err := rf.ReadFrom(&io.LimitedReader{R: c.Conn.Conn, N: limit})
				n -= got
				if err == nil && got < limit {
					err = io.ErrUnexpectedEOF
				}
				if socket.IsTimeout(err) && got > 0 {
					err = nil // slow, yet alive
				}
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := c.Await(x.b.o.Timeouts.Idle); err != nil {
			return err
		}
		window, _ := c.Reader.Peek(int(min(n, int64(c.Reader.Buffered()))))
		if _, err := x.w.Write(window); err != nil {
			out.Client = true
			return err
		}
		c.Reader.Discard(len(window))
		n -= int64(len(window))
	}
	return nil
}

// copyStream copies a body of unknown length and flushes before each read from the socket: server-sent events and long
// polls arrive as they are sent, also when the backend's pause falls into the middle of a chunk.
func (x *exchange) copyStream(c *http1.Conn, body io.Reader, out *http1.Outcome) error {
	buf := socket.GetBuffer()
	defer socket.PutBuffer(buf)
	idle := x.b.o.Timeouts.Idle
	c.Pause = func() error {
		x.flush()
		if idle > 0 {
			c.SetReadDeadline(time.Now().Add(idle))
		}
		return nil
	}
	defer func() { c.Pause = nil }()
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, werr := x.w.Write((*buf)[:n]); werr != nil {
				out.Client = true
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
