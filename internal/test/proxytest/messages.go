package proxytest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// lengths: bodies keep their ends (RFC 9112 section 6).
var lengths = []Case{
	{"large-both-ways", "1 MiB there and back, by length and by chunks", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			body, _, err := e.body()
			if err != nil {
				return false
			}
			if strings.HasSuffix(e.Target, "?chunked") {
				e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
					strconv.FormatInt(int64(len(body)), 16) + "\r\n" + string(body) + "\r\n0\r\n\r\n")
				return true
			}
			return e.ok(string(body))
		})
		big := strings.Repeat("0123456789abcdef", 1<<16)
		for _, how := range []string{"", "?chunked"} {
			req := "POST " + t.path + how + " HTTP/1.1\r\nHost: site.example\r\nContent-Length: 1048576\r\n\r\n" + big
			if how != "" {
				req = "POST " + t.path + how +
					" HTTP/1.1\r\nHost: site.example\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n" + big +
					"\r\n0\r\n\r\n"
			}
			a, err := t.ask("POST", req)
			if err != nil {
				return err
			}
			if err := a.want(200, big); err != nil {
				return err
			}
		}
		return nil
	}},
	{"short-by-length", "an origin that promises more than it sends: the client sees a broken answer",
		func(t *trial) error {
			return t.broken("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}},
	{"short-by-chunks", "so it does when the last chunk is missing", func(t *trial) error {
		return t.broken("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	}},
	{"short-request", "a client that aborts: the origin sees no whole request", func(t *trial) error {
		seen := make(chan error, 1)
		t.origin.on(t.path, func(e *Exchange) bool {
			_, _, err := e.body()
			if err == nil {
				seen <- errors.New("the body looked whole")
			} else {
				seen <- nil
			}
			return false
		})
		c, err := t.dial()
		if err != nil {
			return err
		}
		io.WriteString(c, t.request("POST", "Content-Length: 200000")+strings.Repeat("x", 1000))
		c.Close()
		select {
		case err := <-seen:
			return err
		case <-time.After(500 * time.Millisecond):
			return nil // never sent on: fine too
		}
	}},
	{"no-body", "HEAD, 204 and 304 have a length and no body, and the connection stays in step", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			switch {
			case strings.HasPrefix(e.Head, "HEAD "):
				e.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			case strings.HasPrefix(e.Head, "DELETE "):
				e.send("HTTP/1.1 204 No Content\r\n\r\n")
			default:
				e.send("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1000\r\n\r\n")
			}
			return true
		})
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, one := range []struct {
			method string
			status int
		}{{"HEAD", 200}, {"DELETE", 204}, {"GET", 304}, {"HEAD", 200}} {
			io.WriteString(c, t.request(one.method))
			a, err := c.final(one.method)
			if err != nil {
				return fmt.Errorf("%s: %w", one.method, err)
			}
			if err := a.want(one.status, ""); err != nil {
				return fmt.Errorf("%s: %w", one.method, err)
			}
		}
		return nil
	}},
	{"http10", "a client of HTTP/1.0 gets no chunks", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool {
			e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
			return true
		})
		a, err := t.ask("GET", "GET "+t.path+" HTTP/1.0\r\nHost: site.example\r\n\r\n")
		if err != nil {
			return err
		}
		if len(a.TransferEncoding) > 0 {
			return errors.New("chunks")
		}
		return a.want(200, "ok")
	}},
	{"pipelined", "requests sent at once are answered in their order", func(t *trial) error {
		t.origin.on(t.path, func(e *Exchange) bool { return e.ok(e.Target) })
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		all := ""
		for i := range 5 {
			all += fmt.Sprintf("GET %s?%d HTTP/1.1\r\nHost: site.example\r\n\r\n", t.path, i)
		}
		io.WriteString(c, all)
		for i := range 5 {
			a, err := c.final("GET")
			if err != nil {
				return err
			}
			if err := a.want(200, fmt.Sprintf("%s?%d", t.path, i)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"bad-answers", "a malformed answer is a 502", func(t *trial) error {
		for _, bad := range []string{"hello\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
			"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 0\r\n\r\n"} {
			t.origin.on(t.path, func(e *Exchange) bool { e.send(bad); return false })
			a, err := t.ask("GET", t.request("GET"))
			if err != nil {
				return fmt.Errorf("%q: %w", bad, err)
			}
			if a.StatusCode != 502 {
				return fmt.Errorf("%q became %d", bad, a.StatusCode)
			}
		}
		return nil
	}},
}

func (t *trial) broken(sent string) error {
	t.origin.on(t.path, func(e *Exchange) bool { e.send(sent); return false })
	a, err := t.ask("GET", t.request("GET"))
	if err != nil || a.err != nil || a.StatusCode == 502 {
		return nil
	}
	return fmt.Errorf("looked whole: %d %q", a.StatusCode, a.body)
}

// hops: what belongs to one connection stays on it (RFC 9110 section 7.6.1), and who sent a request is told truly.
var hops = []Case{
	{"hop-fields", "Connection, Keep-Alive, Proxy-Connection, TE and Upgrade of the client do not pass, nor those of the answer", func(t *trial) error {
		e, a, err := t.see("Connection: keep-alive", "Keep-Alive: timeout=7", "Proxy-Connection: keep-alive",
			"TE: trailers, deflate")
		if err != nil {
			return err
		}
		if slices.Contains(e.values("Keep-Alive"), "timeout=7") || len(e.values("Proxy-Connection")) > 0 ||
			strings.Contains(list(e.values("TE")), "deflate") {
			return fmt.Errorf("the origin saw %q", e.Head)
		}
		if a.Header.Get("Keep-Alive") == "timeout=9" || a.Header.Get("Proxy-Connection") != "" {
			return fmt.Errorf("the client saw %v", a.Header)
		}
		return nil
	}},
	{"hop-named", "fields that Connection names do not pass, in either direction", func(t *trial) error {
		e, a, err := t.see("Connection: X-Private", "X-Private: secret")
		if err != nil {
			return err
		}
		if len(e.values("X-Private")) > 0 {
			return errors.New("the origin saw the client's")
		}
		if a.Header.Get("X-Hop") != "" {
			return errors.New("the client saw the origin's")
		}
		return nil
	}},
	{"forwarded-for", "X-Forwarded-For ends with the client's address", func(t *trial) error {
		e, _, err := t.see()
		if err != nil {
			return err
		}
		if got := list(e.values("X-Forwarded-For")); got != "127.0.0.1" {
			return fmt.Errorf("X-Forwarded-For %q", got)
		}
		return nil
	}},
	{"forwarded-spoofed", "what an unknown client claims in X-Forwarded-For or Forwarded does not pass",
		func(t *trial) error {
			e, _, err := t.see("X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7", "X-Real-IP: 203.0.113.7")
			if err != nil {
				return err
			}
			if strings.Contains(e.Head, "203.0.113.7") {
				return errors.New("the claim reached the origin")
			}
			return nil
		}},
	{"host-and-target", "Host and target arrive as they were sent", func(t *trial) error {
		seen := make(chan string, 1)
		t.origin.on(t.path, func(e *Exchange) bool {
			seen <- e.Target + " " + list(e.values("Host"))
			return e.ok("ok")
		})
		a, err := t.ask("GET", "GET "+t.path+"?a=%2F&b=%20;c HTTP/1.1\r\nHost: site.example:8080\r\n\r\n")
		if err != nil {
			return err
		}
		if a.StatusCode != 200 {
			return fmt.Errorf("status %d", a.StatusCode)
		}
		select {
		case got := <-seen:
			if want := t.path + "?a=%2F&b=%20;c site.example:8080"; got != want {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		default:
			return errors.New("the request did not reach the origin")
		}
	}},
}

// see makes a plain exchange and returns both sides' view; the answer carries fields of the hop.
func (t *trial) see(lines ...string) (*Exchange, *answer, error) {
	seen := make(chan *Exchange, 1)
	t.origin.on(t.path, func(e *Exchange) bool {
		seen <- e
		e.send("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: secret\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
		return true
	})
	a, err := t.ask("GET", t.request("GET", lines...))
	if err != nil {
		return nil, nil, err
	}
	if err := a.want(200, "ok"); err != nil {
		return nil, nil, err
	}
	return <-seen, a, nil
}

// reuse: connections to the origin are used again, and no POST is ever sent twice (RFC 9110 section 9.2.2).
var reuse = []Case{
	{"keep-alive", "connections are used again", func(t *trial) error {
		var mu sync.Mutex
		conns := map[any]bool{}
		t.origin.on(t.path, func(e *Exchange) bool {
			mu.Lock()
			conns[e.c] = true
			mu.Unlock()
			return e.ok("ok")
		})
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		for range 20 {
			io.WriteString(c, t.request("GET"))
			a, err := c.final("GET")
			if err != nil {
				return err
			}
			if err := a.want(200, "ok"); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if len(conns) > 5 {
			return fmt.Errorf("%d connections for 20 requests", len(conns))
		}
		return nil
	}},
	{"stale-post", "an origin that had closed an idle connection before the next POST came: it is noticed, no POST fails", func(t *trial) error {
		closed := make(chan struct{}, 2*t.Posts) // nobody waits for the word after a failure
		failed, twice, err := t.posts(t.Posts/5, func(e *Exchange, n int) bool {
			e.ok("ok") // without Connection: close
			if n%2 == 0 {
				e.c.Close()
			}
			closed <- struct{}{}
			return n%2 != 0
		}, closed)
		if err == nil && failed+twice > 0 {
			err = fmt.Errorf("of %d POSTs %d failed and %d arrived twice", t.Posts/5, failed, twice)
		}
		return err
	}},
	{"stale-race", "an origin that closes idle connections at any moment: no POST arrives twice", func(t *trial) error {
		_, twice, err := t.posts(t.Posts, func(e *Exchange, n int) bool {
			e.ok("ok")
			if n%4 == 0 {
				time.Sleep(time.Duration(n%7) * 100 * time.Microsecond)
			}
			return n%2 != 0
		}, nil)
		if err == nil && twice > 0 {
			err = fmt.Errorf("%d of %d POSTs arrived twice", twice, t.Posts)
		}
		return err
	}},
	{"ambiguous-post", "an origin that takes a POST and closes without a word: 502, not a resend",
		func(t *trial) error {
			failed, twice, err := t.posts(t.Posts/5, func(e *Exchange, n int) bool {
				return n%2 != 0 && e.ok("ok")
			}, nil)
			if err != nil {
				return err
			}
			if twice > 0 {
				return fmt.Errorf("%d POSTs arrived twice", twice)
			}
			if failed == 0 {
				return errors.New("no POST failed, although the origin dropped some")
			}
			return nil
		}},
}

// posts sends count POSTs with a number each. n counts the requests at the origin; after each answer a word on pace is
// awaited, unless it is nil.
func (t *trial) posts(count int, script func(e *Exchange, n int) bool, pace <-chan struct{}) (failed, twice int,
	err error) {
	var mu sync.Mutex
	seen := map[string]int{}
	n := 0
	t.origin.on(t.path, func(e *Exchange) bool {
		body, _, err := e.body()
		if err != nil {
			return false
		}
		mu.Lock()
		seen[string(body)]++
		n++
		at := n
		mu.Unlock()
		return script(e, at)
	})
	c, err := t.dial()
	if err != nil {
		return 0, 0, err
	}
	defer func() { c.Close() }()
	for i := range count {
		c.SetDeadline(time.Now().Add(t.Wait))
		io.WriteString(c, t.request("POST", "Content-Length: 6")+fmt.Sprintf("%06d", i))
		a, err := c.final("POST")
		if err != nil || a.StatusCode != 200 {
			if err == nil && a.StatusCode < 500 {
				return 0, 0, fmt.Errorf("status %d", a.StatusCode)
			}
			failed++
		} else if pace != nil {
			select {
			case <-pace:
			case <-time.After(t.Wait):
				return 0, 0, errors.New("an answer that the origin did not give")
			}
		}
		if err != nil || a.Close {
			c.Close()
			if c, err = t.dial(); err != nil {
				return 0, 0, err
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, times := range seen {
		if times > 1 {
			twice++
		}
	}
	return failed, twice, nil
}
