// Package client is how a browser or an app reaches the site: it resolves the name at our name servers with its subnet,
// tries the next address when a connection fails, keeps cookies and validators, repeats a write under its key until the
// outcome is known, and waits for the distance to the data center that it talks to.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Options describe the network between the clients and the site.
type Options struct {
	// Host is the site's name, NameServers the addresses that answer for it.
	Host        string
	NameServers []string
	// Dial tells where an address of the site listens, Center which data center it belongs to.
	Dial   func(netip.Addr) string
	Center func(netip.Addr) string
	// Near and Far are the round trips to a client's own center and to any other. Zero means 5 and 90 ms.
	Near, Far time.Duration
	// Timeout bounds one attempt, WriteDeadline a write with its repetitions. Zero means 20 and 30 s.
	Timeout, WriteDeadline time.Duration
}

// Network carries the requests of all clients. It is safe for concurrent use.
type Network struct {
	Options
	http                         *http.Transport
	writing, repeats, dnsRetries atomic.Int64
}

// NewNetwork returns a network without clients.
func NewNetwork(o Options) *Network {
	if o.Near == 0 {
		o.Near = 5 * time.Millisecond
	}
	if o.Far == 0 {
		o.Far = 90 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.WriteDeadline == 0 {
		o.WriteDeadline = 30 * time.Second
	}
	return &Network{Options: o, http: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		MaxIdleConnsPerHost: 256, MaxIdleConns: 1024, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, ResponseHeaderTimeout: o.Timeout,
	}}
}

// Close closes the connections that are idle.
func (n *Network) Close() { n.http.CloseIdleConnections() }

// Writing is the number of writes that are in flight.
func (n *Network) Writing() int64 { return n.writing.Load() }

// Repeats counts the repetitions of writes, DNSRetries those of look-ups.
func (n *Network) Repeats() int64 { return n.repeats.Load() }

// DNSRetries counts the look-ups that were sent to another name server.
func (n *Network) DNSRetries() int64 { return n.dnsRetries.Load() }

// Client is one person's device at one address. It is safe for concurrent use.
type Client struct {
	Addr   netip.Addr
	Region string // the data center that is nearest
	net    *Network

	mu      sync.Mutex // guards what follows
	dns     lookup
	cookies map[string]string
	etags   map[string]string
}

// Client returns a new client at an address.
func (n *Network) Client(addr netip.Addr, region string) *Client {
	return &Client{Addr: addr, Region: region, net: n, cookies: map[string]string{}, etags: map[string]string{}}
}

// ETag is the validator of the last answer from a path.
func (c *Client) ETag(path string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.etags[path]
}

// NewID is what a client makes up for its writes: 96 random bits.
func NewID() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Request is one request.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         []byte
	Key          string // idempotency key: repeated until the outcome is known
	Kind         string // for a report
}

// Response is what came back.
type Response struct {
	Status int
	Header http.Header
	Body   []byte // of at most 64 KiB; longer ones are counted only
	Size   int64
	Took   time.Duration // with distance and repetitions
	First  time.Time     // when it was first sent
	Center string        // data center that answered
}

// Get sends a request that may be repeated once, as browsers do: the next address when a connection can't be made, and
// one repetition when it breaks.
func (c *Client) Get(ctx context.Context, a Request) (Response, error) {
	start := time.Now()
	r := Response{First: start}
	repeated := false
	for round := 0; ; round++ {
		addrs, err := c.resolve()
		if err != nil {
			return r, err
		}
		for _, addr := range addrs {
			var res Response
			if res, err = c.attempt(ctx, addr, a); err == nil {
				res.First, res.Took = start, time.Since(start)
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

// Put repeats a write under its key until its outcome is known.
func (c *Client) Put(ctx context.Context, a Request) (Response, error) {
	c.net.writing.Add(1)
	defer c.net.writing.Add(-1)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.net.WriteDeadline)
	defer cancel()
	wait := backoff.Policy{Base: 40 * time.Millisecond, Max: 400 * time.Millisecond}
	for try := 0; ; try++ {
		r, err := c.Get(ctx, a)
		r.First, r.Took = start, time.Since(start)
		if err == nil && r.Status < 500 && r.Status != http.StatusTooManyRequests {
			return r, nil
		}
		c.net.repeats.Add(1)
		if e := backoff.Sleep(ctx, wait.Delay(try)); e != nil {
			if err == nil {
				err = errors.New("still " + http.StatusText(r.Status))
			}
			return r, err
		}
	}
}

func (c *Client) attempt(ctx context.Context, addr netip.Addr, a Request) (Response, error) {
	center := c.net.Center(addr)
	rtt := c.net.Far
	if center == c.Region {
		rtt = c.net.Near
	}
	if err := backoff.Sleep(ctx, rtt); err != nil {
		return Response{}, err
	}
	r, err := c.Exchange(ctx, c.net.Dial(addr), a)
	r.Center = center
	return r, err
}

// Exchange is one HTTP request to one server, without DNS, distance and repetition.
func (c *Client) Exchange(ctx context.Context, hostport string, a Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, c.net.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, a.Method, "http://"+hostport+a.Path, bytes.NewReader(a.Body))
	if err != nil {
		return Response{}, err
	}
	if a.Body == nil {
		req.Body, req.GetBody = http.NoBody, nil
	}
	for k, v := range a.Header {
		req.Header[k] = v
	}
	req.Host = c.net.Host
	req.Header.Set("X-Forwarded-For", c.Addr.String()) // what the network would show: the edge trusts this one hop
	if a.Key != "" {
		req.Header.Set("Idempotency-Key", a.Key)
	}
	c.mu.Lock()
	for k, v := range c.cookies {
		req.AddCookie(&http.Cookie{Name: k, Value: v})
	}
	c.mu.Unlock()
	res, err := c.net.http.RoundTrip(req) // no redirects: the log has its own
	if err != nil {
		return Response{}, err
	}
	defer res.Body.Close()
	head, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	r := Response{Status: res.StatusCode, Header: res.Header, Body: head, Size: int64(len(head))}
	if err == nil {
		var n int64
		n, err = io.Copy(io.Discard, res.Body)
		r.Size += n
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
	if e := res.Header.Get("Etag"); e != "" && a.Method == "GET" && res.StatusCode == 200 {
		c.etags[a.Path] = e
	}
	c.mu.Unlock()
	return r, nil
}
