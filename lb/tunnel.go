package lb

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
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
	for {
		if idle > 0 {
			src.SetReadDeadline(time.Now().Add(idle))
		}
		// up to 1 MiB at a time, so that the deadline moves; TCP to TCP is spliced by the kernel
		n, err := io.CopyN(dst, src, 1<<20)
		if n > 0 {
			act.mark()
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case isTimeout(err) && (n > 0 || act.within(idle)):
		default:
			return err
		}
	}
}
