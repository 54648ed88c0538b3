package player

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/internal/backoff"
)

// client is one address of the log.
type client struct {
	addr   netip.Addr
	region string
	writer *writer // nil: only reads

	mu      sync.Mutex // guards what follows
	dns     lookup
	cookies map[string]string
	etags   map[string]string
	started bool // its writer's script runs
}

// ask is one request.
type ask struct {
	method, path string
	header       http.Header
	body         []byte
	key          string // idempotency key: repeated until the outcome is known
	kind         string // for the report
}

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   []byte // of at most 64 KiB; longer ones are counted only
	size   int64
	took   time.Duration // with distance and repetitions
	first  time.Time
	center string
}

// get sends a request that may be repeated once, as browsers do: the next address when a connection can't be made, and
// one repetition when it breaks.
func (p *Player) get(ctx context.Context, c *client, a ask) (reply, error) {
	start := time.Now()
	r := reply{first: start}
	repeated := false
	for round := 0; ; round++ {
		addrs, err := p.resolve(c)
		if err != nil {
			return r, err
		}
		for _, addr := range addrs {
			var res reply
			if res, err = p.attempt(ctx, c, addr, a); err == nil {
				res.first, res.took = start, time.Since(start)
				return res, nil
			}
			if ctx.Err() != nil {
				return r, err
			}
			if !notSent(err) {
				if repeated {
					return r, err
				}
				repeated = true
			}
		}
		if round == 1 {
			return r, err
		}
		c.mu.Lock()
		c.dns.until = time.Time{} // every address failed: ask again
		c.mu.Unlock()
	}
}

// notSent reports whether the connection could not be made, so that surely nothing was processed.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// put repeats a write under its key until its outcome is known.
func (p *Player) put(ctx context.Context, c *client, a ask) (reply, error) {
	p.writing.Add(1)
	defer p.writing.Add(-1)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.c.WriteDeadline)
	defer cancel()
	wait := backoff.Policy{Base: 40 * time.Millisecond, Max: 400 * time.Millisecond}
	for try := 0; ; try++ {
		r, err := p.get(ctx, c, a)
		r.first, r.took = start, time.Since(start)
		if err == nil && r.status < 500 && r.status != http.StatusTooManyRequests {
			return r, nil
		}
		p.result.repeats.Add(1)
		if e := backoff.Sleep(ctx, wait.Delay(try)); e != nil {
			if err == nil {
				err = errors.New("still " + http.StatusText(r.status))
			}
			return r, err
		}
	}
}

func (p *Player) attempt(ctx context.Context, c *client, addr netip.Addr, a ask) (reply, error) {
	center := p.c.Center(addr)
	rtt := p.c.Far
	if center == c.region {
		rtt = p.c.Near
	}
	if err := backoff.Sleep(ctx, rtt); err != nil {
		return reply{}, err
	}
	r, err := p.exchange(ctx, c, p.c.Dial(addr), a)
	r.center = center
	return r, err
}

// exchange is one HTTP request to one server.
func (p *Player) exchange(ctx context.Context, c *client, hostport string, a ask) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, p.c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, a.method, "http://"+hostport+a.path, bytes.NewReader(a.body))
	if err != nil {
		return reply{}, err
	}
	if a.body == nil {
		req.Body, req.GetBody = http.NoBody, nil
	}
	for k, v := range a.header {
		req.Header[k] = v
	}
	req.Host = p.c.Host
	req.Header.Set("X-Forwarded-For", c.addr.String()) // what the network would show: the edge trusts this one hop
	if a.key != "" {
		req.Header.Set("Idempotency-Key", a.key)
	}
	c.mu.Lock()
	for k, v := range c.cookies {
		req.AddCookie(&http.Cookie{Name: k, Value: v})
	}
	c.mu.Unlock()
	res, err := p.http.RoundTrip(req) // no redirects: the log has its own
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	head, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	r := reply{status: res.StatusCode, header: res.Header, body: head, size: int64(len(head))}
	if err == nil {
		var n int64
		n, err = io.Copy(io.Discard, res.Body)
		r.size += n
	}
	if err != nil {
		return r, err
	}
	c.mu.Lock()
	for _, ck := range res.Cookies() {
		if ck.MaxAge < 0 || ck.Value == "" {
			delete(c.cookies, ck.Name)
		} else {
			c.cookies[ck.Name] = ck.Value
		}
	}
	if e := res.Header.Get("Etag"); e != "" && a.method == "GET" && res.StatusCode == 200 {
		c.etags[a.path] = e
	}
	c.mu.Unlock()
	return r, nil
}

// fromLog makes the request of a log line: with the client's validator where the log says 304, with a range where it
// says 206 or 416.
func (p *Player) fromLog(c *client, e accesslog.Entry) ask {
	a := ask{method: e.Method, path: e.Path, header: http.Header{}, kind: "log"}
	if e.Agent != "" && strings.IndexFunc(e.Agent, func(r rune) bool { return r < ' ' || r > '~' }) < 0 {
		a.header.Set("User-Agent", e.Agent)
	}
	if e.Method != "GET" && e.Method != "HEAD" && e.Method != "OPTIONS" {
		a.key = newID()
	}
	o := p.c.Catalog[accesslog.Clean(e.Path)]
	switch {
	case e.Status == http.StatusNotModified:
		c.mu.Lock()
		if etag := c.etags[e.Path]; etag != "" {
			a.header.Set("If-None-Match", etag)
		}
		c.mu.Unlock()
	case e.Status == http.StatusPartialContent && o.Kind == accesslog.File && e.Size > 0 && e.Method == "GET":
		a.header.Set("Range", byteRange(0, min(e.Size, o.Size)-1))
	case e.Status == http.StatusRequestedRangeNotSatisfiable && o.Kind == accesslog.File:
		a.header.Set("Range", byteRange(o.Size, -1))
	}
	return a
}

// expected reports whether a status is what the catalog promises for a line of the log.
func expected(o accesslog.Object, a ask, status int) bool {
	switch o.Kind {
	case accesslog.Redirect:
		return status == http.StatusMovedPermanently
	case accesslog.Forbidden:
		return status == http.StatusForbidden
	case accesslog.Missing:
		return status == http.StatusNotFound
	}
	switch rg := a.header.Get("Range"); {
	case rg != "" && strings.HasSuffix(rg, "-"):
		return status == http.StatusRequestedRangeNotSatisfiable
	case rg != "":
		return status == http.StatusPartialContent
	case a.header.Get("If-None-Match") != "":
		return status == http.StatusNotModified || status == http.StatusOK
	}
	return status == http.StatusOK
}
