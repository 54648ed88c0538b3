package assemble

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tierkit/tierkit/autoscale"
	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/examples/fullstack/xray"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/probe"
)

// edgeHealth is answered by an edge itself, before its cache: what the name servers probe.
const edgeHealth = "/-/edge-health"

// allFail ignores health only when every check fails: then the checker is more likely wrong (a machine short of time)
// than right.
const allFail = 0.1

// ejection is short, as everything here: a node that was killed is back after a second.
var ejection = lb.Outlier{Ejection: 500 * time.Millisecond, MaxEjection: 2 * time.Second}

// loopback is the one network whose forwarding headers are believed: in this example every hop is on this machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// center is one data center.
type center struct {
	name  string
	s     *Stack
	edges []*edge
	lbs   []*balancer
	pools []*workerPool

	mu    sync.Mutex // guards webs and made
	webs  []*web
	made  int
	scale *autoscale.Controller
	down  bool // killed as a whole: nothing is scaled
}

// edge is a cache near the users, in front of the balancers of its center and, when all of those fail, of the others.
type edge struct {
	*node
	ip    netip.Addr
	cache *cdn.Cache
	up    *lb.Balancer // over the balancers
}

// balancer spreads requests over the web servers of its center.
type balancer struct {
	*node
	lb *lb.Balancer
}

// edgePurger purges every edge that is alive; one that comes back from the dead is emptied first.
type edgePurger struct{ s *Stack }

func (p *edgePurger) Purge(ctx context.Context, m cdn.Match) (n int, err error) {
	for _, c := range p.s.centers {
		for _, e := range c.edges {
			if !e.alive() {
				continue
			}
			k, e := e.cache.Purge(ctx, m)
			n, err = n+k, errors.Join(err, e)
		}
	}
	return n, err
}

func (s *Stack) startCenters(ctx context.Context) error {
	s.purger = &edgePurger{s}
	for _, name := range []string{East, West} {
		c := &center{name: name, s: s}
		s.centers = append(s.centers, c)
		for range minWebs {
			if err := c.addWeb(); err != nil {
				return err
			}
		}
		for i := range 2 {
			if err := c.startBalancer(i + 1); err != nil {
				return err
			}
		}
	}
	for i, c := range s.centers {
		for j := range 2 {
			if err := c.startEdge(j+1, netip.AddrFrom4([4]byte{127, byte(i + 1), 0, byte(j + 1)})); err != nil {
				return err
			}
		}
	}
	for _, c := range s.centers {
		if err := c.startScaling(); err != nil {
			return err
		}
		if err := c.startWorkers(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *center) startBalancer(i int) error {
	b := &balancer{node: newNode(fmt.Sprintf("%s-lb%d", c.name, i), "lb", c.name)}
	var err error
	b.lb, err = lb.New(c.endpoints(), lb.Options{
		Logger: c.s.log,
		Health: lb.Health{Probe: probe.HTTP("/-/healthz"), Interval: probeEvery, Timeout: probeTimeout,
			Fall: probeFall},
		Retry:          lb.Retry{Max: 3, MaxBody: 3 << 20, Statuses: []int{}},
		Hooks:          c.stateHooks(b.name),
		Outlier:        ejection,
		PanicThreshold: allFail,
	})
	if err != nil {
		return err
	}
	c.lbs = append(c.lbs, b)
	h, err := b.lb.Handler(lb.ProxyOptions{TrustedProxies: loopback})
	if err != nil {
		return err
	}
	return b.serve("127.0.0.1:0", c.s.tiers["lb"].Wrap(xray.Tier(xray.Balancer, b.name, nil, h)))
}

func (c *center) stateHooks(who string) *lb.Hooks {
	return &lb.Hooks{State: func(b *lb.Backend, from, to lb.BackendState) {
		kind := "recovery"
		if to == lb.StateDown || to == lb.StateEjected {
			kind = "failure"
		}
		if to != lb.StateRemoved && to != lb.StateDraining {
			c.s.Event(kind, fmt.Sprintf("%s sees %s: %s", who, b.ID(), to))
		}
	}}
}

func (c *center) startEdge(i int, ip netip.Addr) error {
	e := &edge{node: newNode(fmt.Sprintf("%s-edge%d", c.name, i), "edge", c.name), ip: ip}
	var eps []lb.Endpoint
	for _, other := range c.s.centers {
		for _, b := range other.lbs {
			ep := lb.Endpoint{ID: b.name, Addr: b.addr, Zone: other.name}
			if other != c {
				ep.Priority = 1
			}
			eps = append(eps, ep)
		}
	}
	var err error
	e.up, err = lb.New(eps, lb.Options{
		Logger: c.s.log,
		Health: lb.Health{Probe: probe.HTTP("/-/healthz"), Interval: probeEvery, Timeout: probeTimeout,
			Fall: probeFall},
		Retry:          lb.Retry{Max: 3, MaxBody: 3 << 20},
		Hooks:          c.stateHooks(e.name),
		Outlier:        ejection,
		PanicThreshold: allFail,
	})
	if err != nil {
		return err
	}
	c.edges = append(c.edges, e)
	if e.cache, err = cdn.New(cdn.Options{MaxBytes: 96 << 20, MaxObject: 16 << 20, Name: e.name,
		Disk: cdn.DiskOptions{Dir: filepath.Join(c.s.o.Dir, "edge", e.name), MaxBytes: 512 << 20,
			NoSync: true}}); err != nil {
		return err
	}
	proxy, err := e.cache.Proxy("http://origin.invalid",
		cdn.ProxyOptions{Transport: e.up.RoundTripper(nil), KeepHost: true, Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	traced := xray.Tier(xray.Edge, e.name, xray.Outcome, proxy)
	handler := c.s.tiers["edge"].Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == edgeHealth {
			e.probes.Add(1)
			w.WriteHeader(http.StatusOK)
			return
		}
		traced.ServeHTTP(w, r)
	}))
	if err := e.serve(c.s.edgeAddress(ip), handler); err != nil {
		return err
	}
	c.s.served = append(c.s.served, netip.MustParseAddrPort(e.addr))
	return nil
}

// edgeAddress is where the next edge listens. All have the same port on addresses of their own, as they would on
// machines of their own. Where the loopback network has one address (macOS), they have ports of their own on it:
// clients then reach the address that the name servers give through Stack.Dial.
func (s *Stack) edgeAddress(ip netip.Addr) string {
	port := s.o.Site
	switch {
	case s.o.OneAddress && port != 0:
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port+len(s.served))).String()
	case s.o.OneAddress:
		return "127.0.0.1:0"
	case len(s.served) > 0:
		port = int(s.served[0].Port())
	}
	return netip.AddrPortFrom(ip, uint16(port)).String()
}

// oneLoopback reports whether this machine answers on 127.0.0.1 only.
func oneLoopback() bool {
	l, err := net.Listen("tcp", "127.2.0.2:0")
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// endpoints are the web servers that may get traffic.
func (c *center) endpoints() []lb.Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	var eps []lb.Endpoint
	for _, w := range c.webs {
		eps = append(eps, lb.Endpoint{ID: w.name, Addr: w.addr, Zone: c.name})
	}
	return eps
}

// servers are the web servers that run now.
func (c *center) servers() []*web {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.webs)
}

// update tells the balancers which web servers there are.
func (c *center) update() error {
	var errs []error
	for _, b := range c.lbs {
		errs = append(errs, b.lb.Update(c.endpoints()))
	}
	return errors.Join(errs...)
}

// nodes are all servers of the center that can be killed with it.
func (c *center) nodes() []*node {
	var ns []*node
	for _, e := range c.edges {
		ns = append(ns, e.node)
	}
	for _, b := range c.lbs {
		ns = append(ns, b.node)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.webs {
		ns = append(ns, w.node)
	}
	return ns
}

// revive starts a killed edge: in the place of the old one stands a new one with an empty cache.
func (e *edge) revive(ctx context.Context) error {
	_, err := e.cache.Purge(ctx, cdn.Match{All: true})
	e.gate.Revive()
	return err
}

func (c *center) drain(ctx context.Context) error {
	var errs []error
	for _, n := range c.nodes() {
		errs = append(errs, n.shutdown(ctx))
	}
	for _, p := range c.pools {
		errs = append(errs, p.pool.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

func (c *center) close() error {
	var errs []error
	for _, n := range c.nodes() {
		n.close()
	}
	for _, e := range c.edges {
		if e.cache != nil {
			errs = append(errs, e.cache.Close())
		}
		errs = append(errs, e.up.Close())
	}
	for _, b := range c.lbs {
		errs = append(errs, b.lb.Close())
	}
	for _, p := range c.pools {
		errs = append(errs, p.pool.Close())
	}
	c.mu.Lock()
	webs := c.webs
	c.mu.Unlock()
	for _, w := range webs {
		w.release()
	}
	return errors.Join(errs...)
}
