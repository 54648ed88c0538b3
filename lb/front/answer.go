package front

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/socket"
	"github.com/tierkit/tierkit/lb"
)

// answer passes a final answer on. pool is whether the backend's connection may be used again, keep the client's.
func (c *conn) answer(up *http1.Conn, be *lb.Backend, head []byte, status int, old, idempotent bool,
	out *http1.Outcome) (pool,
	keep bool, err error) {
	if err := c.Discards(status, idempotent); err != nil {
		return false, false, err
	}
	var a http1.AnswerHead
	if c.out, err = a.Rewrite(c.out[:0], head, old, c.binder(be)); err != nil {
		return false, false, err
	}
	up.Reader.Discard(len(head) + 2)
	bare := c.head.NoBody || status == http.StatusNoContent || status == http.StatusNotModified
	switch {
	case status == http.StatusNoContent:
	case a.Length >= 0:
		c.out = append(c.out, "Content-Length: "...)
		c.out = append(strconv.AppendInt(c.out, a.Length, 10), '\r', '\n')
	case !bare:
		c.out = append(c.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if !a.Dated {
		c.out = append(c.out, "Date: "...)
		c.out = append(time.Now().UTC().AppendFormat(c.out, http.TimeFormat), '\r', '\n')
	}
	keep = !c.head.Close && !c.closing()
	if !keep {
		c.out = append(c.out, "Connection: close\r\n"...)
	}
	c.out = append(c.out, '\r', '\n')
	if err := c.relaying(); err != nil {
		return false, false, err
	}
	out.Started = true
	switch {
	case bare:
		err = c.flush(out)
	case a.Length >= 0:
		err = c.copyLength(up, a.Length, out)
	case a.Length == http1.Chunked:
		err = c.copyChunks(up, up.Chunks(), true, out)
	default:
		a.Close = true
		err = c.copyChunks(up, up.Reader, false, out)
	}
	return err == nil && !a.Close, keep, err
}

// binder returns the function that adds a sticky cookie to an answer; nil when there is nothing to add.
func (c *conn) binder(be *lb.Backend) func(http.Header) {
	if c.f.o.Proxy.Sticky == nil || c.key.Sticky == be.ID() {
		return nil
	}
	return func(h http.Header) { c.f.h.Bind(h, c.key, be) }
}

// flush writes what has been built of the answer.
func (c *conn) flush(out *http1.Outcome) error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		out.Client = true
	}
	return err
}

func (c *conn) relaying() error {
	if was := c.state.enter(phaseRelaying, c.now()); was >= phaseLate {
		c.state.enter(was, c.now()) // over judges it
		return errClientLeft
	}
	return nil
}

// copyLength sends head and body in one write where the body has come already; what is large goes from socket to
// socket (splice on Linux).
func (c *conn) copyLength(up *http1.Conn, n int64, out *http1.Outcome) error {
	for {
		window, _ := up.Reader.Peek(int(min(n, int64(up.Reader.Buffered()))))
		c.out = append(c.out, window...)
		up.Reader.Discard(len(window))
		n -= int64(len(window))
		if err := c.flush(out); err != nil || n == 0 {
			return err
		}
		if err := c.relaying(); err != nil {
			return err
		}
		if n >= 64<<10 && c.reader != nil && up.Socket() {
			got, err := c.reader.ReadFrom(&io.LimitedReader{R: up.Conn.Conn, N: min(n, 256<<10)})
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
		if _, err := up.Reader.Peek(1); err != nil {
			return http1.Unexpected(err)
		}
	}
}

// copyChunks sends a body of unknown length as chunks, and all that there is whenever the backend pauses.
func (c *conn) copyChunks(up *http1.Conn, body io.Reader, trailers bool, out *http1.Outcome) error {
	buf := socket.GetBuffer()
	defer socket.PutBuffer(buf)
	up.Pause = func() error {
		if err := c.relaying(); err != nil {
			return err
		}
		return c.flush(out)
	}
	defer func() { up.Pause = nil }()
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
		if err := up.Trailers(func(k, v string) { c.out = http1.AppendField(c.out, k, v) }); err != nil {
			return http1.Unexpected(err)
		}
	}
	c.out = append(c.out, '\r', '\n')
	return c.flush(out)
}
