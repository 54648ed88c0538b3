package player

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
)

// Config says what is played against what.
type Config struct {
	Log     *accesslog.Log
	Catalog accesslog.Catalog
	Ledger  *Ledger
	// Rate is requests per second; 0 plays the whole log in 30 s. Duration ends the play (the log is repeated where it
	// is too short); 0 plays it once.
	Rate     float64
	Duration time.Duration
	// Host is the site's name, NameServers the addresses that answer for it.
	Host        string
	NameServers []string
	// Dial tells where an address of the site listens, Center which data center it belongs to, Region which center is
	// the nearest to a client ("" for an unknown place).
	Dial   func(netip.Addr) string
	Center func(netip.Addr) string
	Region func(netip.Addr) string
	// Direct is a balancer of the first center, asked without DNS and edge by a sample of the requests, for comparison.
	Direct, DirectCenter string
	// Near and Far are the round trips to a client's own center and to any other. Zero means 5 and 90 ms.
	Near, Far time.Duration
	// Timeout bounds one attempt, WriteDeadline a write with its repetitions. Zero means 20 and 30 s.
	Timeout, WriteDeadline time.Duration
	// Progress is called now and then with the requests sent so far.
	Progress func(sent, total int)
}

// Player plays.
type Player struct {
	c       Config
	http    *http.Transport
	clients map[netip.Addr]*client
	writers []*client
	result  *Result
	total   int
	wg      sync.WaitGroup
	writing atomic.Int64 // writes in flight
}

// New prepares the clients of a log: every fifth of them, by first appearance, also writes, half of these as mobile
// clients with tokens.
func New(c Config) *Player {
	if c.Near == 0 {
		c.Near = 5 * time.Millisecond
	}
	if c.Far == 0 {
		c.Far = 90 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	if c.WriteDeadline == 0 {
		c.WriteDeadline = 30 * time.Second
	}
	if c.Rate == 0 {
		c.Rate = float64(len(c.Log.Entries)) / 30
	}
	p := &Player{c: c, clients: map[netip.Addr]*client{}, result: newResult()}
	p.http = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		MaxIdleConnsPerHost: 256, MaxIdleConns: 1024, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, ResponseHeaderTimeout: c.Timeout,
	}
	p.total = len(c.Log.Entries)
	if c.Duration > 0 {
		p.total = int(c.Rate * c.Duration.Seconds())
	}
	for _, e := range c.Log.Entries[:min(p.total, len(c.Log.Entries))] {
		if p.clients[e.Client] != nil {
			continue
		}
		cl := &client{addr: e.Client, region: c.Region(e.Client), cookies: map[string]string{},
			etags: map[string]string{}}
		if cl.region == "" {
			p.result.unlocated++
		}
		if n := len(p.clients); n%5 == 0 {
			cl.writer = &writer{n: n / 5, mobile: n%10 == 0, name: "u" + newID()[:12]}
			p.writers = append(p.writers, cl)
		}
		p.clients[e.Client] = cl
	}
	p.result.clients, p.result.writers = len(p.clients), len(p.writers)
	return p
}

// Run plays the log open loop: a request leaves when it is due, however slow the answers to others are. It returns when
// all answers are in and every writer has ended its script, or when ctx ends.
func (p *Player) Run(ctx context.Context) (*Result, error) {
	defer p.http.CloseIdleConnections()
	p.resend(ctx)
	start := time.Now()
	p.result.start = start
	timer := time.NewTimer(0)
	defer timer.Stop()
	entries := p.c.Log.Entries
	for i := 0; i < p.total && ctx.Err() == nil; i++ {
		due := start.Add(time.Duration(float64(i) / p.c.Rate * 1e9))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				continue
			}
		}
		p.result.lag.Observe(time.Since(due))
		e := entries[i%len(entries)]
		burst := float64(i) >= 0.40*float64(p.total) && float64(i) < 0.48*float64(p.total)
		p.wg.Go(func() { p.play(ctx, p.clients[e.Client], e, burst) })
		if c := p.clients[e.Client]; c.writer != nil && c.start() {
			p.wg.Go(func() { p.script(ctx, c) })
		}
		if i%100 == 0 && i > 0 && i%int(max(p.c.Rate/2, 100)) < 100 || i == p.total-1 {
			p.progress(i + 1)
		}
		if i%40 == 39 {
			p.wg.Go(func() { p.direct(ctx, p.clients[e.Client], e) })
		}
	}
	p.wg.Wait()
	p.result.took = time.Since(start)
	return p.result, context.Cause(ctx)
}

// Writing reports whether at least one write is in flight.
func (p *Player) Writing() bool { return p.writing.Load() > 0 }

func (p *Player) progress(sent int) {
	if p.c.Progress != nil {
		p.c.Progress(sent, p.total)
	}
}

func (c *client) start() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.started
	c.started = true
	return first
}

// play is one line of the log, and the view that the page posts when it is shown.
func (p *Player) play(ctx context.Context, c *client, e accesslog.Entry, burst bool) {
	a := p.fromLog(c, e)
	var r reply
	var err error
	if a.key != "" {
		r, err = p.put(ctx, c, a)
	} else {
		r, err = p.get(ctx, c, a)
	}
	if ctx.Err() != nil {
		return
	}
	o := p.c.Catalog[accesslog.Clean(e.Path)]
	p.result.count(c, a, r, err, err == nil && expected(o, a, r.status))
	if err == nil && o.Kind == accesslog.Page && a.method == "GET" &&
		(r.status == http.StatusOK || r.status == http.StatusNotModified) {
		n := 1
		if burst { // something is popular: ten readers look over this client's shoulder
			n = 10
		}
		p.view(ctx, c, o.Path, n)
	}
}

type view struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// view posts views with ids of their own until they are acknowledged.
func (p *Player) view(ctx context.Context, c *client, path string, n int) {
	vs := make([]view, n)
	for i := range vs {
		vs[i] = view{newID(), path}
	}
	p.post(ctx, c, vs)
}

func (p *Player) post(ctx context.Context, c *client, vs []view) {
	intents, acks := make([]line, len(vs)), make([]line, len(vs))
	for i, v := range vs {
		intents[i] = line{Kind: KindView, ID: v.ID, Path: v.Path}
		acks[i] = line{Kind: KindView, ID: v.ID, Path: v.Path, Ack: true}
	}
	p.c.Ledger.add(intents...)
	body, _ := json.Marshal(vs)
	a := ask{method: "POST", path: "/-/beacon", body: body, key: vs[0].ID, kind: "view",
		header: http.Header{"Content-Type": {"application/json"}}}
	r, err := p.put(ctx, c, a)
	if ctx.Err() != nil {
		return
	}
	ok := err == nil && r.status == http.StatusNoContent
	p.result.count(c, a, r, err, ok)
	if ok {
		p.c.Ledger.add(acks...)
	}
}

// resend repeats the views of an earlier run whose outcome nobody knows.
func (p *Player) resend(ctx context.Context) {
	vs := p.c.Ledger.unknownViews()
	var any *client
	for _, any = range p.clients {
		break
	}
	for len(vs) > 0 && any != nil {
		n := min(len(vs), 100)
		p.post(ctx, any, vs[:n])
		vs = vs[n:]
	}
}

// direct asks a balancer of the first center without DNS and edge, as all clients would without them. It measures what
// the edge and the nearest center are worth, and is not part of the books.
func (p *Player) direct(ctx context.Context, c *client, e accesslog.Entry) {
	if e.Method != "GET" || p.c.Direct == "" {
		return
	}
	start := time.Now()
	rtt := p.c.Far
	if p.c.DirectCenter == c.region {
		rtt = p.c.Near
	}
	time.Sleep(rtt)
	if r, err := p.exchange(ctx, &client{addr: c.addr, cookies: map[string]string{}, etags: map[string]string{}},
		p.c.Direct, ask{method: "GET", path: e.Path}); err == nil && r.status < 500 {
		p.result.directs(c.region).Observe(time.Since(start))
	}
}

// newID is what a client makes up for its writes: 96 random bits.
func newID() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func byteRange(from, to int64) string {
	if to < 0 {
		return fmt.Sprintf("bytes=%d-", from)
	}
	return fmt.Sprintf("bytes=%d-%d", from, to)
}

var errUnexpected = errors.New("unexpected answer")
