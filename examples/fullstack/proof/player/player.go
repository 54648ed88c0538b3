package player

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
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
	// Network leads to the site.
	Network *client.Network
	// Region tells which center is the nearest to a client ("" for an unknown place).
	Region func(netip.Addr) string
	// Direct is a balancer of the first center, asked without DNS and edge by a sample of the requests, for comparison.
	Direct, DirectCenter string
	// Progress is called now and then with the requests sent so far.
	Progress func(sent, total int)
}

// Player plays.
type Player struct {
	c       Config
	clients map[netip.Addr]*reader
	writers []*reader
	result  *Result
	total   int
	wg      sync.WaitGroup
}

// New prepares the clients of a log: every fifth of them, by first appearance, also writes, half of these as mobile
// clients with tokens.
func New(c Config) *Player {
	if c.Rate == 0 {
		c.Rate = float64(len(c.Log.Entries)) / 30
	}
	p := &Player{c: c, clients: map[netip.Addr]*reader{}, result: newResult(c.Network)}
	p.total = len(c.Log.Entries)
	if c.Duration > 0 {
		p.total = int(c.Rate * c.Duration.Seconds())
	}
	for _, e := range c.Log.Entries[:min(p.total, len(c.Log.Entries))] {
		if p.clients[e.Client] != nil {
			continue
		}
		cl := &reader{Client: c.Network.Client(e.Client, c.Region(e.Client))}
		if cl.Region == "" {
			p.result.unlocated++
		}
		if n := len(p.clients); n%5 == 0 {
			cl.writer = &writer{n: n / 5, mobile: n%10 == 0, name: "u" + client.NewID()[:12]}
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
	defer p.c.Network.Close()
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
func (p *Player) Writing() bool { return p.c.Network.Writing() > 0 }

func (p *Player) progress(sent int) {
	if p.c.Progress != nil {
		p.c.Progress(sent, p.total)
	}
}

// reader is one address of the log.
type reader struct {
	*client.Client
	writer  *writer // nil: only reads
	started bool    // its writer's script runs; used by Run alone
}

func (c *reader) start() bool {
	first := !c.started
	c.started = true
	return first
}

// play is one line of the log, and the view that the page posts when it is shown.
func (p *Player) play(ctx context.Context, c *reader, e accesslog.Entry, burst bool) {
	a := fromLog(p.c.Catalog, c, e)
	var r client.Response
	var err error
	if a.Key != "" {
		r, err = c.Put(ctx, a)
	} else {
		r, err = c.Get(ctx, a)
	}
	if ctx.Err() != nil {
		return
	}
	o := p.c.Catalog[accesslog.Clean(e.Path)]
	p.result.count(c, a, r, err, err == nil && expected(o, a, r.Status))
	if err == nil && o.Kind == accesslog.Page && a.Method == "GET" &&
		(r.Status == http.StatusOK || r.Status == http.StatusNotModified) {
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
func (p *Player) view(ctx context.Context, c *reader, path string, n int) {
	vs := make([]view, n)
	for i := range vs {
		vs[i] = view{client.NewID(), path}
	}
	p.post(ctx, c, vs)
}

func (p *Player) post(ctx context.Context, c *reader, vs []view) {
	intents, acks := make([]line, len(vs)), make([]line, len(vs))
	for i, v := range vs {
		intents[i] = line{Kind: KindView, ID: v.ID, Path: v.Path}
		acks[i] = line{Kind: KindView, ID: v.ID, Path: v.Path, Ack: true}
	}
	p.c.Ledger.add(intents...)
	body, _ := json.Marshal(vs)
	a := client.Request{Method: "POST", Path: "/-/beacon", Body: body, Key: vs[0].ID, Kind: "view",
		Header: http.Header{"Content-Type": {"application/json"}}}
	r, err := c.Put(ctx, a)
	if ctx.Err() != nil {
		return
	}
	ok := err == nil && r.Status == http.StatusNoContent
	p.result.count(c, a, r, err, ok)
	if ok {
		p.c.Ledger.add(acks...)
	}
}

// resend repeats the views of an earlier run whose outcome nobody knows.
func (p *Player) resend(ctx context.Context) {
	vs := p.c.Ledger.unknownViews()
	var any *reader
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
func (p *Player) direct(ctx context.Context, c *reader, e accesslog.Entry) {
	if e.Method != "GET" || p.c.Direct == "" {
		return
	}
	start := time.Now()
	rtt := p.c.Network.Far
	if p.c.DirectCenter == c.Region {
		rtt = p.c.Network.Near
	}
	time.Sleep(rtt)
	if r, err := p.c.Network.Client(c.Addr, c.Region).Exchange(ctx, p.c.Direct,
		client.Request{Method: "GET", Path: e.Path}); err == nil && r.Status < 500 {
		p.result.directs(c.Region).Observe(time.Since(start))
	}
}

var errUnexpected = errors.New("unexpected answer")
