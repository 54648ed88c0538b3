package assemble

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/metrics/dashboard"
)

// Operator offers what can be done to the running service. The control room shows it as buttons.
type Operator interface {
	// Actions are those for the whole service, NodeActions those for one node.
	Actions() []dashboard.Action
	NodeActions(Node) []dashboard.Action
	// Act carries one of them out; target is a node's ID, or empty.
	Act(ctx context.Context, target, action string) error
}

// Operate lets an operator act through the control room.
func (s *Stack) Operate(o Operator) { s.operator.Store(&o) }

func (s *Stack) actions() []dashboard.Action {
	if o := s.operator.Load(); o != nil {
		return (*o).Actions()
	}
	return nil
}

func (s *Stack) act(ctx context.Context, target, action string) error {
	if o := s.operator.Load(); o != nil {
		return (*o).Act(ctx, target, action)
	}
	return errors.New("nobody operates the service")
}

// picture collects the nodes and arrows of one moment.
type picture struct {
	dashboard.Topology
	a    *admin
	dt   float64 // seconds since the picture before; 0: too soon for new rates
	acts func(Node) []dashboard.Action
}

// topology shows every node and the traffic on the arrows between them. Columns are in the order of a request.
func (a *admin) topology() dashboard.Topology {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &picture{a: a, dt: time.Since(a.at).Seconds(), acts: func(Node) []dashboard.Action { return nil }}
	if p.dt < 0.5 {
		p.dt = 0
	} else {
		a.at = time.Now()
	}
	if o := a.s.operator.Load(); o != nil {
		p.acts = (*o).NodeActions
	}
	for _, c := range a.s.centers {
		p.Nodes = append(p.Nodes, dashboard.Node{ID: "clients-" + c.name, Label: c.name + "-clients",
			Tier: "Clients, names", Zone: c.name, State: dashboard.StateUp, Detail: "nearest to here"})
	}
	for i, n := range a.s.names {
		p.node(n.node, "Clients, names", a.s.centers[i%len(a.s.centers)].name,
			fmt.Sprintf("%.0f/s", a.rate(n.name, n.requests.Load(), p.dt)))
	}
	for _, c := range a.s.centers {
		p.center(c)
	}
	p.stores()
	for _, c := range a.s.centers {
		p.workers(c)
	}
	p.databases()
	return p.Topology
}

// rate returns the growth of a counter per second, over steps of at least half a second. The caller holds a.mu.
func (a *admin) rate(name string, n uint64, dt float64) float64 {
	if dt > 0 {
		if prior, ok := a.prior[name]; ok && n >= prior {
			a.rates[name] = float64(n-prior) / dt
		}
		a.prior[name] = n
	}
	return a.rates[name]
}

func (p *picture) node(n *node, tier, zone, detail string) {
	p.box(Node{n.name, n.tier, zone, n.state()}, tier, detail, n.since.at(n.state()))
}

func (p *picture) box(n Node, tier, detail string, since time.Time) {
	if n.State == dashboard.StateUp {
		since = time.Time{}
	}
	p.Nodes = append(p.Nodes, dashboard.Node{ID: n.ID, Label: n.ID, Tier: tier, Zone: n.Zone, State: n.State,
		Since: since, Detail: detail, Actions: p.acts(n)})
}

func (p *picture) arrow(from, to string, n uint64, probes float64) {
	p.Edges = append(p.Edges, dashboard.Edge{From: from, To: to, Rate: p.a.rate(from+">"+to, n, p.dt), Probes: probes})
}

// center draws edges, balancers and web servers.
func (p *picture) center(c *center) {
	for _, e := range c.edges {
		st := e.cache.Stats()
		hit := ""
		if all := st.Hits + st.Misses + st.Stale + st.Revalidated + st.Collapsed; all > 0 {
			hit = fmt.Sprintf("%d %% hits", 100*(st.Hits+st.Stale)/all)
		}
		p.node(e.node, "Edge", c.name, hit)
		p.arrow("clients-"+c.name, e.name, e.requests.Load()-e.probes.Load(),
			p.a.rate(e.name+" probes", e.probes.Load(), p.dt))
		for _, b := range e.up.Stats().Backends {
			if b.Requests > 0 {
				p.arrow(e.name, b.ID, b.Requests, 0)
			}
		}
	}
	for _, b := range c.lbs {
		p.node(b.node, "Balancer", c.name, "")
		for _, w := range b.lb.Stats().Backends {
			if w.State != lb.StateRemoved.String() {
				p.arrow(b.name, w.ID, w.Requests, 0)
			}
		}
	}
	webs := c.servers()
	asked := map[string]uint64{}
	for _, sn := range p.a.s.data.shards {
		for _, n := range sn.byZone[c.name].Stats().Nodes {
			asked[n.Node] += n.Reads + n.Writes
		}
	}
	for _, w := range webs {
		p.node(w.node, "Web", c.name, "")
		st := w.tiered.Stats()
		p.arrow(w.name, "cache", uint64(st.L2Hits+st.Loads), 0)
		p.arrow(w.name, "queue", uint64(w.site.Published()), 0)
		for node, n := range asked { // counted per data center: shared among its web servers
			p.arrow(w.name, node, n/uint64(len(webs)), 0)
		}
	}
}

func (p *picture) stores() {
	st, s := p.a.s.queue.Stats(), p.a.s
	waiting := int64(0)
	for _, g := range st.Groups {
		waiting += int64(g.Ready + g.Delayed + g.InFlight)
	}
	cache := dashboard.StateUp
	if !s.redis.CacheAlive() {
		cache = dashboard.StateDown
	}
	p.box(Node{"cache", "stores", Witness, cache}, "Shared stores", "second tier", time.Time{})
	p.box(Node{"sessions", "stores", Witness, dashboard.StateUp}, "Shared stores", "", time.Time{})
	p.box(Node{"queue", "stores", Witness, dashboard.StateUp}, "Shared stores", fmt.Sprintf("%d waiting", waiting),
		time.Time{})
}

func (p *picture) workers(c *center) {
	for _, w := range c.pools {
		n := Node{c.name + "-" + w.topic, "workers", c.name, dashboard.StateUp}
		if w.dead.Load() {
			n.State = dashboard.StateDown
		}
		p.box(n, "Workers", fmt.Sprintf("%d at work", w.pool.Workers()), time.Time{})
		p.arrow("queue", n.ID, uint64(w.pool.Stats().Succeeded), 0)
	}
}

func (p *picture) databases() {
	for _, sn := range p.a.s.data.shards {
		primary := sn.primary()
		for _, n := range sn.ship.Nodes() {
			role := "replica"
			if n.ID() == primary {
				role = "primary"
			} else if primary != "" {
				p.Edges = append(p.Edges, dashboard.Edge{From: primary, To: n.ID(), Kind: dashboard.KindReplication})
			}
			p.box(Node{n.ID(), "database", n.Zone(), stateOf(n.Gate())}, "Databases", role, time.Time{})
		}
	}
}
