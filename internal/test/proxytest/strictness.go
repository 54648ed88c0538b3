package proxytest

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// strictness: messages that two readers could cut in different places (request smuggling; RFC 9112 section 11.2).
var strictness = []Case{
	{"length-and-chunks", "a request with Content-Length and Transfer-Encoding is refused, or sent on with one of them and the connection closed (RFC 9112 section 6.1)", func(t *trial) error {
		return t.smuggle("POST", "0\r\n\r\nGET "+t.path+"?inner HTTP/1.1\r\nHost: site.example\r\n\r\n",
			"Content-Length: 5", "Transfer-Encoding: chunked")
	}},
	{"answer-length-and-chunks", "an answer with both is not read by its length", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			e.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
			return false
		})
		a, err := t.ask("GET", t.request("GET"))
		if err != nil || a.StatusCode == 502 {
			return nil
		}
		return a.want(200, "ok")
	}},
	{"two-lengths", "two different lengths are refused", func(t *trial) error {
		return t.refused("POST", "hello", "Content-Length: 5", "Content-Length: 4")
	}},
	{"length-list", "so is a length that is no number", func(t *trial) error {
		return t.refused("POST", "hello", "Content-Length: +5")
	}},
	{"folded-line", "a folded line is refused or made one line (RFC 9112 section 5.2)", func(t *trial) error {
		return t.clean("X-A: b\r\n c")
	}},
	{"blank-before-colon", "a blank before the colon is refused (RFC 9112 section 5.1)", func(t *trial) error {
		return t.refused("GET", "", "Transfer-Encoding : chunked")
	}},
	{"bare-cr", "a bare CR in a value is refused or replaced", func(t *trial) error {
		return t.clean("X-A: b\rc")
	}},
	{"nul", "a NUL in a value is refused or replaced", func(t *trial) error {
		return t.clean("X-A: b\x00c")
	}},
	{"bad-chunk", "a chunk whose size is no number does not reach the origin as part of a whole request",
		func(t *trial) error {
			seen := make(chan bool, 1)
			t.origin.on(t.path, func(e *Exchange) bool {
				_, _, err := e.body()
				seen <- err == nil
				return err == nil && e.ok("ok")
			})
			a, err := t.ask("POST", t.request("POST", "Transfer-Encoding: chunked")+"0x5\r\nhello\r\n0\r\n\r\n")
			select {
			case whole := <-seen:
				if whole {
					return fmt.Errorf("accepted")
				}
			case <-time.After(50 * time.Millisecond):
			}
			if err == nil && a.StatusCode < 400 {
				return fmt.Errorf("status %d", a.StatusCode)
			}
			return nil
		}},
	{"unknown-coding", "a transfer coding other than chunked is refused (RFC 9112 section 6.1)", func(t *trial) error {
		return t.refused("POST", "0\r\n\r\n", "Transfer-Encoding: chunked, identity")
	}},
}

// smuggle sends a request that ends in two places and looks at whether the second reading took place.
func (t *trial) smuggle(method, body string, lines ...string) error {
	var mu sync.Mutex
	var heads []string
	t.origin.on(t.path, func(e *Exchange) bool {
		mu.Lock()
		heads = append(heads, e.Head)
		mu.Unlock()
		if _, _, err := e.body(); err != nil {
			return false
		}
		return e.ok("ok")
	})
	c, err := t.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(t.Wait))
	io.WriteString(c, t.request(method, lines...)+body)
	a, err := c.final(method)
	if err == nil && a.StatusCode == 200 {
		err = c.ended()
	} else {
		err = nil
	}
	mu.Lock()
	defer mu.Unlock()
	for _, h := range heads {
		l := strings.ToLower(h)
		if strings.Contains(h, "?inner") {
			return fmt.Errorf("the inner request reached the origin")
		}
		if strings.Contains(l, "\r\ncontent-length:") && strings.Contains(l, "\r\ntransfer-encoding:") {
			return fmt.Errorf("both reached the origin")
		}
	}
	return err
}

// refused is an error unless the proxy answers 4xx or 5xx itself.
func (t *trial) refused(method, body string, lines ...string) error {
	reached := make(chan struct{}, 8)
	t.origin.on(t.path, func(e *Exchange) bool { reached <- struct{}{}; e.body(); return e.ok("ok") })
	a, err := t.ask(method, t.request(method, lines...)+body)
	if err == nil && a.StatusCode < 400 {
		return fmt.Errorf("status %d", a.StatusCode)
	}
	select {
	case <-reached:
		return fmt.Errorf("it reached the origin")
	default:
		return nil
	}
}

// clean is an error when the line arrives at the origin as it was sent.
func (t *trial) clean(line string) error {
	seen := make(chan *Exchange, 1)
	t.origin.on(t.path, func(e *Exchange) bool {
		select {
		case seen <- e:
		default:
		}
		return e.ok("ok")
	})
	a, err := t.ask("GET", t.request("GET", line))
	select {
	case e := <-seen:
		if strings.Contains(e.Head, line) {
			return fmt.Errorf("it reached the origin unchanged")
		}
	default:
		if err == nil && a.StatusCode < 400 {
			return fmt.Errorf("status %d", a.StatusCode)
		}
	}
	return nil
}
