package lb

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// tunnel switches protocols: the backend's 101 goes to the client, then bytes go both ways until either side ends.
// Bytes that came early on either side are not lost (golang/go#80875).
func (x *exchange) tunnel(c *conn, be *Backend, head []byte, out *outcome) error {
	if x.upgrade == "" {
		return errors.New("lb: 101 without a request for it")
	}
	h := http.Header{}
	f, err := fields(head, false, h)
	if err != nil {
		return err
	}
	if f.upgrade == "" || !httpfield.Lists([]string{x.upgrade}, f.upgrade) {
		return fmt.Errorf("%w: switch to %q, %q was asked for", errBadResponse, f.upgrade, x.upgrade)
	}
	c.br.Discard(len(head) + 2)
	client, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	out.started = true
	defer client.Close()
	c.SetDeadline(time.Time{})
	client.SetDeadline(time.Time{})
	if x.b.sticky != nil && x.bound != be.id {
		x.b.sticky.bind(h, be.id)
	}
	delete(h, "Content-Length")
	raw := appendField([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"), "Upgrade", f.upgrade)
	raw = appendFields(raw, h)
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
