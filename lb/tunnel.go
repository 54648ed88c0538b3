package lb

import (
	"errors"
	"net/http"
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
	join(client, c.Conn, x.b.o.Timeouts.Tunnel, nil)
	return nil
}
