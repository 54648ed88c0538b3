package lb

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
	"github.com/tierkit/tierkit/internal/socket"
)

// tunnel switches protocols: the backend's 101 goes to the client, then bytes go both ways until either side ends.
// Bytes that came early on either side are not lost (golang/go#80875).
func (x *exchange) tunnel(c *http1.Conn, be *Backend, head []byte, out *http1.Outcome) error {
	if x.upgrade == "" {
		return errors.New("lb: 101 without a request for it")
	}
	h := http.Header{}
	f, err := http1.ParseFields(head, false, h)
	if err != nil {
		return err
	}
	if f.Upgrade == "" || !httpfield.Lists([]string{x.upgrade}, f.Upgrade) {
		return fmt.Errorf("%w: switch to %q, %q was asked for", http1.ErrMalformed, f.Upgrade, x.upgrade)
	}
	c.Reader.Discard(len(head) + 2)
	client, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	out.Started = true
	defer client.Close()
	c.SetDeadline(time.Time{})
	client.SetDeadline(time.Time{})
	x.h.Bind(h, x.key, be)
	delete(h, "Content-Length")
	raw := http1.AppendField([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"), "Upgrade",
		f.Upgrade)
	raw = http1.AppendFields(raw, h)
	if _, err := client.Write(append(raw, '\r', '\n')); err != nil {
		out.Client = true
		return err
	}
	early, _ := buf.Reader.Peek(buf.Reader.Buffered())
	if len(early) > 0 {
		if _, err := c.Write(early); err != nil {
			return err
		}
	}
	late, _ := c.Reader.Peek(c.Reader.Buffered())
	if len(late) > 0 {
		if _, err := client.Write(late); err != nil {
			out.Client = true
			return err
		}
	}
	socket.Join(client, c.Conn.Conn, x.b.o.Timeouts.Tunnel)
	return nil
}
