package lb

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// tunnel switches protocols: the backend's 101 goes to the client, then bytes go both ways until either side ends. Bytes
// that came early on either side are not lost (golang/go#80875).
func (x *exchange) tunnel(c *conn, be *Backend, head []byte, out *outcome) error {
	if x.upgrade == "" {
		return errors.New("lb: 101 without a request for it")
	}
	raw := append([]byte(nil), head...)
	c.br.Discard(len(head) + 2)
	client, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	out.started = true
	defer client.Close()
	c.SetDeadline(time.Time{})
	client.SetDeadline(time.Time{})
	h := http.Header{}
	if x.b.sticky != nil && x.bound != be.id {
		x.b.sticky.bind(h, be.id)
	}
	for _, v := range h["Set-Cookie"] {
		raw = appendField(raw, "Set-Cookie", v)
	}
	if _, err := client.Write(append(raw, '\r', '\n')); err != nil {
		out.client = true
		return err
	}
	early, _ := buf.Reader.Peek(buf.Reader.Buffered())
	if len(early) > 0 {
		if _, err := c.Write(early); err != nil {
			return err
		}
	}
	late, _ := c.br.Peek(c.br.Buffered())
	if len(late) > 0 {
		if _, err := client.Write(late); err != nil {
			out.client = true
			return err
		}
	}
	join(client, c.Conn, x.b.o.Timeouts.Tunnel)
	return nil
}

// join copies both ways until both sides have ended, one has failed or nothing moved for idle. An end on one side is
// passed on as a half close, so that protocols that rely on it work.
func join(a, b net.Conn, idle time.Duration) {
	var activity activity
	var wg sync.WaitGroup
	one := func(dst, src net.Conn) {
		if err := pump(dst, src, idle, &activity); err != nil {
			a.Close()
			b.Close()
			return
		}
		if h, ok := dst.(interface{ CloseWrite() error }); ok {
			h.CloseWrite()
		} else {
			dst.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	one(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// pump copies src to dst. A timeout counts only when the other direction was silent too.
func pump(dst, src net.Conn, idle time.Duration, act *activity) error {
	r := newPumpReader(src)
	if idle > 0 {
		src.SetReadDeadline(time.Now().Add(idle))
	}
	for full := 0; ; {
		buf, n, err := r.read()
		if n > 0 {
			act.mark()
			_, werr := dst.Write((*buf)[:n])
			if full++; n < len(*buf) {
				full = 0
			}
			buffers.Put(buf)
			if werr != nil {
				return werr
			}
			if full < 4 {
				continue
			}
			// A stream that fills every buffer: up to 1 MiB at a time, so that the deadline moves; TCP to TCP is spliced by
			// the kernel, which costs more than copying does where there is little to move.
			full = 0
			if idle > 0 {
				src.SetReadDeadline(time.Now().Add(idle))
			}
			var moved int64
			if moved, err = io.CopyN(dst, src, 1<<20); moved > 0 {
				act.mark()
			}
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case isTimeout(err) && act.within(idle):
			src.SetReadDeadline(time.Now().Add(idle))
		default:
			return err
		}
	}
}

// pumpReader reads into a buffer that it takes only when there is something to read: a tunnel that is idle holds none.
type pumpReader struct {
	src  net.Conn
	raw  syscall.RawConn // nil: src is no socket
	once func(fd uintptr) bool
	buf  *[]byte
	n    int
	err  error
}

func newPumpReader(src net.Conn) *pumpReader {
	r := &pumpReader{src: src}
	if s, ok := src.(syscall.Conn); ok && canRead {
		r.raw, _ = s.SyscallConn()
	}
	r.once = func(fd uintptr) bool {
		r.buf = buffers.Get().(*[]byte)
		r.n, r.err = readNow(fd, *r.buf)
		if r.err == errAgain {
			buffers.Put(r.buf)
			return false
		}
		return true
	}
	return r
}

// read returns a buffer of the pool when n > 0.
func (r *pumpReader) read() (*[]byte, int, error) {
	if r.raw == nil {
		buf := buffers.Get().(*[]byte)
		n, err := r.src.Read(*buf)
		if n <= 0 {
			buffers.Put(buf)
		}
		return buf, n, err
	}
	r.buf, r.n, r.err = nil, 0, nil
	if err := r.raw.Read(r.once); err != nil { // a deadline, a closed connection
		return nil, 0, err
	}
	if r.n <= 0 {
		buffers.Put(r.buf)
		if r.err == nil {
			r.err = io.EOF
		}
		return nil, 0, r.err
	}
	return r.buf, r.n, nil
}
