package assemble

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/dashboard"
	"github.com/tierkit/tierkit/metrics/host"
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
	if _, err := host.New(s.metrics); err != nil {
		return nil, err
	}
	d, err := dashboard.New(s.metrics, dashboard.Options{Title: "Control room", Topology: a.topology,
		Panels: a.panels(), Events: s.Events, Tiles: s.tiles, Logs: s.logs, Store: s.store, Security: s.security,
		Actions: s.actions, Act: s.act, Secret: s.secret, History: 600})
	if err != nil {
		return nil, err
	}
	s.wg.Go(func() { _ = d.Run(s.ctx) })
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
		if !dashboard.FromThisMachine(r) {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// register turns the Stats of every part into series.
func (s *Stack) register() error {
	var errs []error
	add := func(labels map[string]string, c metrics.Collector) {
		errs = append(errs, s.metrics.Register(metrics.WithLabels(labels, c)))
	}
	for _, c := range s.centers {
		for _, e := range c.edges {
			add(map[string]string{"node": e.name}, metrics.Collect("fullstack_cdn", e.cache.Stats))
			add(map[string]string{"node": e.name}, metrics.Collect("fullstack_upstream", e.up.Stats))
		}
		for _, b := range c.lbs {
			add(map[string]string{"node": b.name}, metrics.Collect("fullstack_lb", b.lb.Stats))
		}
		add(map[string]string{"tier": "web", "center": c.name}, metrics.Collect("fullstack_autoscale", c.scale.Stats))
		for _, p := range c.pools {
			l := map[string]string{"tier": "workers_" + p.topic, "center": c.name}
			add(l, metrics.Collect("fullstack_autoscale", p.scale.Stats))
			add(l, metrics.Collect("fullstack_workers", p.pool.Stats))
		}
		add(map[string]string{"center": c.name}, metrics.Collect("fullstack_shard", s.data.clusters[c.name].Stats))
		for _, sn := range s.data.shards {
			add(map[string]string{"shard": sn.id, "center": c.name},
				metrics.Collect("fullstack_replica", sn.byZone[c.name].Stats))
		}
	}
	for _, n := range s.names {
		add(map[string]string{"node": n.name}, metrics.Collect("fullstack_dns", n.srv.Stats))
	}
	add(nil, metrics.Collect("fullstack_queue", s.queue.Stats))
	return errors.Join(errs...)
}

// panels are the charts that the packages' own counters do not give by themselves.
func (a *admin) panels() []dashboard.Panel {
	return []dashboard.Panel{
		{Title: "Edge hit ratio", Unit: "%", Read: a.hitRatio()},
		{Title: "Queue waiting", Unit: "messages", Read: func() (vs []dashboard.Value) {
			for _, g := range a.s.queue.Stats().Groups {
				vs = append(vs, dashboard.Value{Name: g.Topic, Value: float64(g.Ready + g.Delayed + g.InFlight)})
			}
			return vs
		}},
		{Title: "Queue oldest age", Unit: "s", Read: func() (vs []dashboard.Value) {
			for _, g := range a.s.queue.Stats().Groups {
				vs = append(vs, dashboard.Value{Name: g.Topic, Value: g.OldestAge})
			}
			return vs
		}},
		{Title: "Instances", Unit: "", Read: func() (vs []dashboard.Value) {
			for _, c := range a.s.centers {
				c.mu.Lock()
				vs = append(vs, dashboard.Value{Name: c.name + " web", Value: float64(len(c.webs))})
				c.mu.Unlock()
				for _, p := range c.pools {
					vs = append(vs, dashboard.Value{Name: c.name + " " + p.topic, Value: float64(p.pool.Workers())})
				}
			}
			return vs
		}},
		{Title: "Replication lag", Unit: "ms", Read: func() (vs []dashboard.Value) {
			for _, sn := range a.s.data.shards {
				worst := 0.0
				for _, n := range sn.byZone[East].Stats().Nodes {
					worst = max(worst, n.LagSeconds*1000)
				}
				vs = append(vs, dashboard.Value{Name: sn.id, Value: worst})
			}
			return vs
		}},
	}
}

func (a *admin) hitRatio() func() []dashboard.Value {
	type counts struct{ hits, all uint64 }
	before := map[string]counts{}
	return func() (vs []dashboard.Value) {
		for _, c := range a.s.centers {
			var now counts
			for _, e := range c.edges {
				st := e.cache.Stats()
				now.hits += st.Hits + st.Stale
				now.all += st.Hits + st.Stale + st.Misses + st.Revalidated + st.Collapsed
			}
			if all := now.all - before[c.name].all; all > 0 {
				vs = append(vs, dashboard.Value{Name: c.name,
					Value: 100 * float64(now.hits-before[c.name].hits) / float64(all)})
			}
			before[c.name] = now
		}
		return vs
	}
}
