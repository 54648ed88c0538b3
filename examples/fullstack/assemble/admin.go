package assemble

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/metrics"
)

// admin is the page and the metrics of the whole stack, on loopback.
type admin struct {
	*node
	s *Stack

	mu    sync.Mutex // guards before and at
	prior map[string]uint64
	rates map[string]float64
	at    time.Time
}

func startAdmin(s *Stack) (*admin, error) {
	a := &admin{node: newNode("admin", "admin", ""), s: s, prior: map[string]uint64{}, rates: map[string]float64{}}
	d := s.metrics.Dashboard(metrics.DashboardOptions{Title: "tierkit full stack", Topology: a.topology,
		Panels: a.panels(), Events: s.Events,
		Tiles: s.tiles, Logs: s.logs, Store: s.store, Security: s.security})
	s.wg.Go(func() { d.Run(s.ctx) })
	h := metrics.NewHealth(metrics.HealthOptions{})
	h.Check("site", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "GET", s.Addresses().Site+strings.TrimPrefix(edgeHealth, "/"), nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		return nil
	})
	h.Started()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", onlyLocal(s.metrics.Handler()))
	mux.Handle("GET /healthz", h.Live())
	mux.Handle("GET /readyz", h.Ready())
	mux.Handle("/", d)
	return a, a.serve(fmt.Sprintf("127.0.0.1:%d", s.o.Admin), mux)
}

func onlyLocal(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !metrics.FromThisMachine(r) {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// register turns the Stats of every part into series.
func (s *Stack) register() error {
	var errs []error
	add := func(labels prometheus.Labels, c prometheus.Collector) {
		errs = append(errs, s.metrics.Register(metrics.WithLabels(labels, c)))
	}
	for _, c := range s.centers {
		for _, e := range c.edges {
			add(prometheus.Labels{"node": e.name}, metrics.Collect("fullstack_cdn", e.cache.Stats))
			add(prometheus.Labels{"node": e.name}, metrics.Collect("fullstack_upstream", e.up.Stats))
		}
		for _, b := range c.lbs {
			add(prometheus.Labels{"node": b.name}, metrics.Collect("fullstack_lb", b.lb.Stats))
		}
		add(prometheus.Labels{"tier": "web", "center": c.name}, metrics.Collect("fullstack_autoscale", c.scale.Stats))
		for _, p := range c.pools {
			l := prometheus.Labels{"tier": "workers_" + p.topic, "center": c.name}
			add(l, metrics.Collect("fullstack_autoscale", p.scale.Stats))
			add(l, metrics.Collect("fullstack_workers", p.pool.Stats))
		}
		add(prometheus.Labels{"center": c.name}, metrics.Collect("fullstack_shard", s.data.clusters[c.name].Stats))
		for _, sn := range s.data.shards {
			add(prometheus.Labels{"shard": sn.id, "center": c.name},
				metrics.Collect("fullstack_replica", sn.byZone[c.name].Stats))
		}
	}
	for _, n := range s.names {
		add(prometheus.Labels{"node": n.name}, metrics.Collect("fullstack_dns", n.srv.Stats))
	}
	add(nil, metrics.Collect("fullstack_queue", s.queue.Stats))
	return errors.Join(errs...)
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

// topology shows every node and the traffic on the arrows between them.
func (a *admin) topology() metrics.Topology {
	a.mu.Lock()
	defer a.mu.Unlock()
	dt := time.Since(a.at).Seconds()
	if dt < 0.5 {
		dt = 0
	} else {
		a.at = time.Now()
	}
	var t metrics.Topology
	box := func(id, label, tier, zone, state, detail string) {
		t.Nodes = append(t.Nodes, metrics.Node{ID: id, Label: label, Tier: tier, Zone: zone, State: state,
			Detail: detail})
	}
	arrow := func(from, to string, n uint64) {
		t.Edges = append(t.Edges, metrics.Edge{From: from, To: to, Rate: a.rate(from+">"+to, n, dt)})
	}
	box("clients", "clients", "clients", "", "up", "")
	for _, n := range a.s.names {
		box(n.name, n.name, "dns", "", n.state(), "")
		arrow("clients", n.name, n.requests.Load())
	}
	for _, c := range a.s.centers {
		for _, e := range c.edges {
			st := e.cache.Stats()
			hit := ""
			if all := st.Hits + st.Misses + st.Stale + st.Revalidated + st.Collapsed; all > 0 {
				hit = fmt.Sprintf("%d %% hits", 100*(st.Hits+st.Stale)/all)
			}
			box(e.name, e.name, "edge", c.name, e.state(), hit)
			arrow("clients", e.name, e.requests.Load())
			for _, b := range e.up.Stats().Backends {
				if b.Requests > 0 {
					arrow(e.name, b.ID, b.Requests)
				}
			}
		}
		for _, b := range c.lbs {
			box(b.name, b.name, "lb", c.name, b.state(), "")
			for _, w := range b.lb.Stats().Backends {
				if w.State != lb.StateRemoved.String() {
					arrow(b.name, w.ID, w.Requests)
				}
			}
		}
		c.mu.Lock()
		for _, w := range c.webs {
			box(w.name, w.name, "web", c.name, w.state(), "")
			st := w.tiered.Stats()
			arrow(w.name, "cache", uint64(st.L2Hits+st.Loads))
			arrow(w.name, "queue", uint64(w.site.Published()))
		}
		c.mu.Unlock()
	}
	st := a.s.queue.Stats()
	box("queue", "queue", "stores", Witness, "up", fmt.Sprintf("%.0f/s in", a.rate("queue", uint64(st.Published), dt)))
	cacheState := "up"
	if !a.s.redis.CacheAlive() {
		cacheState = "down"
	}
	box("cache", "second cache tier", "stores", "", cacheState, "")
	box("sessions", "session store", "stores", Witness, "up", "")
	for _, c := range a.s.centers {
		for _, p := range c.pools {
			id := c.name + "-" + p.topic
			state := "up"
			if p.dead.Load() {
				state = "down"
			}
			box(id, id, "workers", c.name, state, fmt.Sprintf("%d workers", p.pool.Workers()))
			arrow("queue", id, uint64(p.pool.Stats().Succeeded))
		}
		// What the center's web servers and workers ask of the databases goes through its shard and replica clusters.
		id := c.name + "-data"
		box(id, c.name+" router", "shard, replica", c.name, "up", "")
		for _, sn := range a.s.data.shards {
			for _, n := range sn.byZone[c.name].Stats().Nodes {
				arrow(id, n.Node, n.Reads+n.Writes)
			}
		}
	}
	for _, sn := range a.s.data.shards {
		primary := sn.primary()
		for _, n := range sn.ship.Nodes() {
			role := "replica"
			if n.ID() == primary {
				role = "primary"
			}
			state := stateOf(n.Gate())
			box(n.ID(), n.ID(), "database", n.Zone(), state, role)
		}
	}
	return t
}

// panels are the charts that the packages' own counters do not give by themselves.
func (a *admin) panels() []metrics.Panel {
	return []metrics.Panel{
		{Title: "Edge hit ratio", Unit: "%", Read: a.hitRatio()},
		{Title: "Queue waiting", Unit: "messages", Read: func() (vs []metrics.Value) {
			for _, g := range a.s.queue.Stats().Groups {
				vs = append(vs, metrics.Value{Name: g.Topic, Value: float64(g.Ready + g.Delayed + g.InFlight)})
			}
			return vs
		}},
		{Title: "Queue oldest age", Unit: "s", Read: func() (vs []metrics.Value) {
			for _, g := range a.s.queue.Stats().Groups {
				vs = append(vs, metrics.Value{Name: g.Topic, Value: g.OldestAge})
			}
			return vs
		}},
		{Title: "Instances", Unit: "", Read: func() (vs []metrics.Value) {
			for _, c := range a.s.centers {
				c.mu.Lock()
				vs = append(vs, metrics.Value{Name: c.name + " web", Value: float64(len(c.webs))})
				c.mu.Unlock()
				for _, p := range c.pools {
					vs = append(vs, metrics.Value{Name: c.name + " " + p.topic, Value: float64(p.pool.Workers())})
				}
			}
			return vs
		}},
		{Title: "Replication lag", Unit: "ms", Read: func() (vs []metrics.Value) {
			for _, sn := range a.s.data.shards {
				worst := 0.0
				for _, n := range sn.byZone[East].Stats().Nodes {
					worst = max(worst, n.LagSeconds*1000)
				}
				vs = append(vs, metrics.Value{Name: sn.id, Value: worst})
			}
			return vs
		}},
	}
}

func (a *admin) hitRatio() func() []metrics.Value {
	type counts struct{ hits, all uint64 }
	before := map[string]counts{}
	return func() (vs []metrics.Value) {
		for _, c := range a.s.centers {
			var now counts
			for _, e := range c.edges {
				st := e.cache.Stats()
				now.hits += st.Hits + st.Stale
				now.all += st.Hits + st.Stale + st.Misses + st.Revalidated + st.Collapsed
			}
			if all := now.all - before[c.name].all; all > 0 {
				vs = append(vs, metrics.Value{Name: c.name,
					Value: 100 * float64(now.hits-before[c.name].hits) / float64(all)})
			}
			before[c.name] = now
		}
		return vs
	}
}
