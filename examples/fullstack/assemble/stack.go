// Package assemble assembles every package of tierkit into one service in one process, with real sockets on loopback:
// two name servers, two data centers of two edges, two balancers and autoscaled web servers and workers each, a session
// store, a second cache tier, two shards of three database nodes over three failure domains, and a durable queue. Every
// node stands behind a gate, so that it can be killed and frozen while the rest goes on.
package assemble

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
	"github.com/tierkit/tierkit/examples/fullstack/standin/redis"
	"github.com/tierkit/tierkit/geodns"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/dashboard"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/session/token"
)

var discard = log.New(io.Discard, "", 0)

// Failure domains. The witness holds the third database node of each shard, the queue and the session store, so that
// the loss of either center takes none of them.
const (
	East    = "us-east"
	West    = "eu-west"
	Witness = "witness"
)

// Host is the name of the site.
const Host = "www.tierkit.example"

// Detection times of the tiers, and the TTL of the site's name.
const (
	probeEvery   = 250 * time.Millisecond
	probeTimeout = 500 * time.Millisecond
	probeFall    = 3
	ttl          = time.Second
)

// CenterWindow is how long the loss of a center may be felt by clients: until it is noticed, and until names that were
// answered before have expired. Ten percent are the jitter of the probes.
const CenterWindow = (probeEvery*probeFall+probeTimeout)*11/10 + ttl

// Mutant is a deliberate defect, for the tests that show that the books can fail.
type Mutant string

// Mutants.
const (
	AckBeforeCount   Mutant = "a worker acknowledges before it counts"
	PromoteLaggard   Mutant = "promotion takes the node that is furthest behind"
	ServeAfterDelete Mutant = "the cache serves what was deleted"
)

// Options configure a assemble.
type Options struct {
	// Dir keeps all files.
	Dir     string
	Catalog accesslog.Catalog
	// Site, DNS and Admin are the ports; 0 takes free ones.
	Site, DNS, Admin int
	// Workers bounds the worker pool of each center, Webs its web servers. Zero means 8 and 4.
	Workers, Webs int
	// OneAddress lets all edges listen on 127.0.0.1, with ports from Site on. It is set where the loopback network has
	// no other address.
	OneAddress bool
	// Log gets what all servers log; nil discards it. The dashboard has it in any case.
	Log    slog.Handler
	Mutant Mutant
}

// Stack is the running service.
type Stack struct {
	o       Options
	log     *slog.Logger
	logs    *logs.Handler
	metrics *metrics.Metrics
	*observed
	tiers map[string]*metrics.HTTP // edge, lb, web

	redis    *redis.Servers
	queue    *queue.Queue
	data     *data
	tokens   *token.Authority
	fresh    *replica.Tokens
	centers  []*center
	names    []*nameServer
	locator  geodns.Locator
	nearest  *geodns.Router   // by distance alone, for the player
	served   []netip.AddrPort // where the edges listen, in their order
	admin    atomic.Pointer[admin]
	secret   string // that actions in the control room need
	operator atomic.Pointer[Operator]
	purger   *edgePurger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	moves  atomic.Int64 // of the autoscalers
	midJob chan *center // see counting

	mu     sync.Mutex // guards events and peak
	events []dashboard.Event
	peak   Scaling
	closed sync.Once
	ended  error
}

// Start assembles and starts everything. On an error nothing is left running.
func Start(ctx context.Context, o Options) (*Stack, error) {
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.Webs == 0 {
		o.Webs = 4
	}
	o.OneAddress = o.OneAddress || oneLoopback()
	if o.Log == nil {
		o.Log = slog.NewTextHandler(io.Discard, nil)
	}
	s := &Stack{o: o, secret: rand.Text(), log: slog.New(o.Log), tiers: map[string]*metrics.HTTP{},
		midJob: make(chan *center)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// start goes from the stores to the front door. What it has started when it fails, Close ends.
func (s *Stack) start(ctx context.Context) (err error) {
	if s.metrics, err = metrics.New(metrics.Options{Namespace: "fullstack", Logger: slog.New(s.o.Log)}); err != nil {
		return err
	}
	for _, t := range []string{"edge", "lb", "web"} {
		if s.tiers[t], err = s.metrics.HTTP(metrics.HTTPOptions{Server: t}); err != nil {
			return err
		}
	}
	if err = s.startObserving(); err != nil {
		return err
	}
	if s.redis, err = redis.Start(s.ctx, s.o.Dir); err != nil {
		return err
	}
	if s.queue, err = queue.Open(filepath.Join(s.o.Dir, "queue"),
		queue.Options{DedupeWindow: 10 * time.Minute, SegmentBytes: 16 << 20}); err != nil {
		return err
	}
	if err = s.openData(ctx); err != nil {
		return err
	}
	if s.tokens, err = loadKeys(s.o.Dir, s.security.Report); err != nil {
		return err
	}
	if s.fresh, err = replica.NewTokens(); err != nil { // one process, so a key of its own will do
		return err
	}
	if err = s.startCenters(ctx); err != nil {
		return err
	}
	if err = s.startNames(); err != nil {
		return err
	}
	a, err := startAdmin(s)
	s.admin.Store(a)
	if err != nil {
		return err
	}
	s.wg.Go(s.watch)
	return s.register()
}

// Event adds to the timeline.
func (s *Stack) Event(kind, text string) { s.add(dashboard.Event{Kind: kind, Text: text}) }

func (s *Stack) add(e dashboard.Event) {
	s.log.Debug("event", "kind", e.Kind, "text", e.Text)
	e.At = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	if len(s.events) > 1000 {
		s.events = append([]dashboard.Event(nil), s.events[len(s.events)-500:]...)
	}
}

// Incident is something that was broken on purpose, and what came of it.
type Incident struct {
	s        *Stack
	id, text string
	target   string
}

// Begin notes an injected failure in the timeline.
func (s *Stack) Begin(target, text string) *Incident {
	in := &Incident{s, rand.Text(), text, target}
	in.note("failure", dashboard.PhaseInjected, text, nil)
	return in
}

// Noticed, Mended and Restored note what became of it, each at most once.
func (in *Incident) Noticed() { in.note("info", dashboard.PhaseNoticed, "noticed: "+in.text, nil) }

// Mended says that clients are served as before, with or without what is broken.
func (in *Incident) Mended(felt *dashboard.Felt) {
	in.note("recovery", dashboard.PhaseMended, "mended: "+in.text, felt)
}

// Restored says that what was broken is back.
func (in *Incident) Restored(felt *dashboard.Felt) {
	in.note("recovery", dashboard.PhaseRestored, "restored: "+in.text, felt)
}

func (in *Incident) note(kind, phase, text string, felt *dashboard.Felt) {
	in.s.add(dashboard.Event{Kind: kind, Text: text, ID: in.id, Phase: phase, Target: in.target, Felt: felt})
}

// Events returns the timeline.
func (s *Stack) Events() []dashboard.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]dashboard.Event(nil), s.events...)
}

// Shutdown drains from the outside in: names and edges stop taking requests, then balancers, web servers and workers,
// then the stores close.
func (s *Stack) Shutdown(ctx context.Context) error {
	var errs []error
	for _, c := range s.centers {
		errs = append(errs, c.drain(ctx))
	}
	errs = append(errs, s.Close())
	return errors.Join(errs...)
}

// Close ends everything at once. It is idempotent.
func (s *Stack) Close() error {
	s.closed.Do(func() {
		s.cancel()
		var errs []error
		if s.nearest != nil {
			s.nearest.Close()
		}
		for _, n := range s.names {
			errs = append(errs, n.close())
		}
		for _, c := range s.centers {
			errs = append(errs, c.close())
		}
		if a := s.admin.Load(); a != nil {
			a.close()
		}
		if s.queue != nil {
			errs = append(errs, s.queue.Close())
		}
		if s.data != nil {
			errs = append(errs, s.data.close())
		}
		if s.redis != nil {
			s.redis.Close()
		}
		s.wg.Wait()
		if s.observed != nil {
			errs = append(errs, s.observed.release())
		}
		s.ended = errors.Join(errs...)
	})
	return s.ended
}

// Addresses tells where the stack listens.
type Addresses struct {
	Site, Dashboard, Metrics string
	NameServers              []string
	Direct                   string // a balancer of the first center
}

// Addresses returns the addresses.
func (s *Stack) Addresses() Addresses {
	a := Addresses{Site: fmt.Sprintf("http://%s/", s.centers[0].edges[0].addr), Dashboard: s.room(),
		Metrics: s.room() + "metrics", Direct: s.centers[0].lbs[0].addr}
	for _, n := range s.names {
		a.NameServers = append(a.NameServers, n.srv.Addr().String())
	}
	return a
}

// room is the address of the control room, once it is open.
func (s *Stack) room() string {
	if a := s.admin.Load(); a != nil {
		return "http://" + a.addr + "/"
	}
	return ""
}

// ControlRoom is the address of the control room with the secret that its buttons need.
func (s *Stack) ControlRoom() string { return s.room() + "#secret=" + s.secret }

// Network is how clients reach the stack.
func (s *Stack) Network() *client.Network {
	return client.NewNetwork(client.Options{Host: Host, NameServers: s.Addresses().NameServers, Dial: s.Dial,
		Center: s.Center})
}

// Dial returns where the edge with an address listens: there, at the site's port, or at a port of its own where the
// machine has one loopback address.
func (s *Stack) Dial(addr netip.Addr) string {
	for _, c := range s.centers {
		for _, e := range c.edges {
			if e.ip == addr {
				return e.addr
			}
		}
	}
	return netip.AddrPortFrom(addr, s.served[0].Port()).String()
}

// OneAddress reports whether the edges share one address.
func (s *Stack) OneAddress() bool { return s.o.OneAddress }

// Center returns the data center that an address belongs to.
func (s *Stack) Center(addr netip.Addr) string {
	for _, c := range s.centers {
		for _, e := range c.edges {
			if e.ip == addr {
				return c.name
			}
		}
	}
	return ""
}

// Region returns the nearest center to a client, "" for an unknown place: by the real address table of geodns.
func (s *Stack) Region(client netip.Addr) string {
	at, _ := s.locator.Locate(client)
	if !at.Known() {
		return ""
	}
	d := s.nearest.Route(client)
	return d.DC
}

// SinglePoints lists what has no second one in this mode.
func (s *Stack) SinglePoints() []string {
	return []string{
		"the process itself, its machine and its disk",
		"the queue: one directory (queue/jetstream stands on several machines)",
		"the session store: one Redis-protocol store in the process (session/redisstore on a Redis with replicas)",
		"the shard map and the promotion lease: in memory, filled the same way at every start",
	}
}
