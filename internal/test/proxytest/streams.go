package proxytest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// informational: 1xx answers, trailers, Expect.
var informational = []Case{
	{"103-passes", "an informational answer reaches the client (RFC 9110 section 15.2)", func(t *trial) error {
		a, _, err := t.early()
		if err != nil {
			return err
		}
		if a == nil || a.StatusCode != 103 || a.Header.Get("Link") == "" {
			return errors.New("no 103 with its Link")
		}
		return nil
	}},
	{"103-hop-fields", "fields of the hop do not pass with it (RFC 9110 section 7.6.1, golang/go#81319)",
		func(t *trial) error {
			a, final, err := t.early()
			if err != nil {
				return err
			}
			if a != nil && (a.Header.Get("X-Hop") != "" || a.Header.Get("Keep-Alive") != "") {
				return fmt.Errorf("103 with %v", a.Header)
			}
			if final.Header.Get("Link") != "" {
				return errors.New("a field of the 103 stands in the final answer")
			}
			return nil
		}},
	{"trailers-of-answer", "announced trailers reach a client that says TE: trailers (RFC 9110 section 6.5)",
		func(t *trial) error {
			t.origin.on(t.path, func(e *Exchange) bool {
				e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n")
				return true
			})
			a, err := t.ask("GET", t.request("GET", "TE: trailers", "Connection: TE"))
			if err != nil {
				return err
			}
			if err := a.want(200, "ok"); err != nil {
				return err
			}
			if a.Trailer.Get("X-Sum") != "42" {
				return fmt.Errorf("trailers %v", a.Trailer)
			}
			return nil
		}},
	{"trailers-of-request", "trailers of a chunked request reach the origin", func(t *trial) error {
		seen := make(chan error, 1)
		t.origin.on(t.path, func(e *Exchange) bool {
			body, trailer, err := e.body()
			if err == nil && (string(body) != "hello" || trailer.Get("X-Sum") != "42") {
				err = fmt.Errorf("body %q, trailers %v", body, trailer)
			}
			seen <- err
			return e.ok("ok")
		})
		a, err := t.ask("POST", t.request("POST", "Transfer-Encoding: chunked", "Trailer: X-Sum")+
			"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n")
		if err != nil {
			return err
		}
		if err := a.want(200, "ok"); err != nil {
			return err
		}
		return t.either(seen)
	}},
	{"expect-continue", "a client that waits for 100 gets it, and the body arrives whole (RFC 9110 section 10.1.1)",
		func(t *trial) error {
			t.origin.on(t.path, func(e *Exchange) bool {
				if len(e.values("Expect")) > 0 {
					e.send("HTTP/1.1 100 Continue\r\n\r\n")
				}
				body, _, err := e.body()
				return err == nil && e.ok(string(body))
			})
			c, err := t.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			io.WriteString(c, t.request("POST", "Expect: 100-continue", "Content-Length: 5"))
			a, err := c.next("POST")
			if err != nil {
				return err
			}
			if a.StatusCode != 100 {
				return fmt.Errorf("status %d before the body", a.StatusCode)
			}
			io.WriteString(c, "hello")
			if a, err = c.final("POST"); err != nil {
				return err
			}
			return a.want(200, "hello")
		}},
	{"expect-refused", "an origin that answers 413 at once saves the body: no 100 is made up", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			e.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			return false
		})
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		io.WriteString(c, t.request("POST", "Expect: 100-continue", "Content-Length: 100000000"))
		a, err := c.next("POST")
		if err != nil {
			return err
		}
		return a.want(413, "no")
	}},
}

// early makes an exchange with a 103 before the final answer; a is nil when none came.
func (t *trial) early() (a, final *answer, err error) {
	t.origin.on(t.path, func(e *Exchange) bool {
		e.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: secret\r\nKeep-Alive: timeout=5\r\n\r\n")
		return e.ok("ok")
	})
	c, err := t.dial()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	io.WriteString(c, t.request("GET"))
	final, err = c.next("GET")
	if err == nil && final.StatusCode < 200 {
		a = final
		final, err = c.final("GET")
	}
	if err == nil {
		err = final.want(200, "ok")
	}
	return a, final, err
}

// upgrades switch protocols (RFC 9110 section 7.8).
var upgrades = []Case{
	{"upgrade", "bytes pass both ways after 101", func(t *trial) error { return t.upgrade("", "") }},
	{"upgrade-early-client", "bytes that the client sends with its request are kept (golang/go#80875)",
		func(t *trial) error {
			return t.upgrade("early", "")
		}},
	{"upgrade-early-origin", "bytes that the origin sends with its 101 are kept", func(t *trial) error {
		return t.upgrade("", "early")
	}},
	{"upgrade-refused", "an origin that does not switch answers as usual", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool { return e.ok("no") })
		a, err := t.ask("GET", t.request("GET", "Connection: Upgrade", "Upgrade: demo"))
		if err != nil {
			return err
		}
		return a.want(200, "no")
	}},
	{"upgrade-h2c", "h2c is not passed on: it would carry requests past the proxy's rules (golang/go#80416)",
		func(t *trial) error {
			seen := make(chan error, 1)
			t.origin.on(t.path, func(e *Exchange) bool {
				var err error
				if up := list(e.values("Upgrade")); strings.Contains(strings.ToLower(up), "h2c") ||
					len(e.values("HTTP2-Settings")) > 0 {
					err = fmt.Errorf("the origin saw Upgrade: %q", up)
				}
				seen <- err
				return e.ok("ok")
			})
			if _, err := t.ask("GET", t.request("GET", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
				"HTTP2-Settings: AAMAAABkAAQAAP__")); err != nil {
				return nil // refused
			}
			select {
			case err := <-seen:
				return err
			default:
				return nil
			}
		}},
}

func (t *trial) upgrade(client, origin string) error {
	t.origin.on(t.path, func(e *Exchange) bool {
		if list(e.values("Upgrade")) != "demo" {
			return e.ok("not asked")
		}
		e.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: demo\r\n\r\n" + origin)
		io.Copy(e.c, e.br)
		return false
	})
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	io.WriteString(c, t.request("GET", "Connection: Upgrade", "Upgrade: demo")+client)
	a, err := c.next("GET")
	if err != nil {
		return err
	}
	if a.StatusCode != 101 || !strings.EqualFold(a.Header.Get("Upgrade"), "demo") {
		return fmt.Errorf("status %d, Upgrade %q", a.StatusCode, a.Header.Get("Upgrade"))
	}
	io.WriteString(c, "hello")
	want := origin + client + "hello"
	got := make([]byte, len(want))
	n, err := io.ReadFull(c.br, got)
	if string(got[:n]) != want {
		return fmt.Errorf("%q came back, want %q (%v)", got[:n], want, err)
	}
	return nil
}

// streams: what is sent arrives when it is sent, and who leaves is noticed.
var streams = []Case{
	{"flush-chunked", "a chunk arrives while the answer goes on", func(t *trial) error {
		return t.flushed("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n", "0\r\n\r\n")
	}},
	{"flush-sse", "an event arrives at once on a connection without a length", func(t *trial) error {
		return t.flushed("Content-Type: text/event-stream\r\nConnection: close\r\n", "hello", "")
	}},
	{"flush-inside-chunk", "so does one behind which the next chunk has begun", func(t *trial) error {
		return t.flushed("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n5\r\n", "world\r\n0\r\n\r\n")
	}},
	{"cancel", "a client that leaves ends its request at the origin", func(t *trial) error {
		return t.left(func(e *Exchange) {})
	}},
	{"cancel-stream", "so does one that leaves in the middle of an answer", func(t *trial) error {
		return t.left(func(e *Exchange) {
			e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		})
	}},
	{"early-answer", "an answer before the request's end reaches the client", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			e.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			io.CopyN(io.Discard, e.br, 1<<20) // as servers linger, so that the answer is not reset
			return false
		})
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		io.WriteString(c, t.request("POST", "Content-Length: 1000000")+strings.Repeat("x", 1000))
		a, err := c.final("POST")
		if err != nil {
			return err
		}
		return a.want(403, "no")
	}},
}

func (t *trial) flushed(fields, first, end string) error {
	proceed := make(chan struct{})
	t.origin.on(t.path, func(e *Exchange) bool {
		e.send("HTTP/1.1 200 OK\r\n" + fields + "\r\n" + first)
		select {
		case <-proceed:
		case <-time.After(t.Wait):
		}
		e.send(end)
		return end != ""
	})
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(t.Wait))
	io.WriteString(c, t.request("GET"))
	var got []byte
	buf := make([]byte, 1024)
	for !strings.Contains(string(got), "hello") {
		n, err := c.br.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return fmt.Errorf("held back (%v)", err)
		}
	}
	close(proceed)
	return nil
}

func (t *trial) left(answer func(*Exchange)) error {
	at, seen := make(chan struct{}), make(chan error, 1)
	t.origin.on(t.path, func(e *Exchange) bool {
		answer(e)
		close(at)
		seen <- e.gone(t.Wait)
		return false
	})
	c, err := t.dial()
	if err != nil {
		return err
	}
	io.WriteString(c, t.request("GET"))
	select {
	case <-at:
	case <-time.After(t.Wait):
		c.Close()
		return errors.New("the request did not arrive")
	}
	c.Close()
	return t.either(seen)
}
