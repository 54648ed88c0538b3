package geodns

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/tierkit/tierkit/internal/health"
	"github.com/tierkit/tierkit/internal/placement"
)

// center is the changing half of a DC. Guarded by Router.mu.
type center struct {
	name     string
	whole    health.Machine
	lastErr  string
	addrs    map[netip.Addr]*address
	votes    map[string]vote
	drained  bool
	up       bool
	since    time.Time
	rampFrom time.Time // zero: no ramp
	stop     func()
}

type vote struct {
	up bool
	at time.Time
}

type address struct {
	machine health.Machine
	lastErr string
	up      bool
}

// adopt makes the centers match dcs and starts their checks. r.mu is held.
func (r *Router) adopt(dcs []DC) {
	h := r.o.Health
	machine := func() health.Machine {
		return health.NewMachine(health.Config{Rise: h.Rise, Fall: h.Fall, MinHold: h.MinHold})
	}
	keep := map[string]*center{}
	for _, d := range dcs {
		c := r.centers[d.Name]
		if c == nil {
			c = &center{name: d.Name, whole: machine(), votes: map[string]vote{}, up: true, stop: func() {}}
		}
		c.stop()
		if d.Check == nil {
			c.whole, c.lastErr = machine(), ""
		}
		addrs := map[netip.Addr]*address{}
		for _, a := range d.Addrs {
			if addrs[a] = c.addrs[a]; addrs[a] == nil || d.CheckAddr == nil {
				addrs[a] = &address{machine: machine(), up: true}
			}
		}
		c.addrs = addrs
		keep[d.Name] = c
		r.watch(c, d)
	}
	for name, c := range r.centers {
		if keep[name] == nil {
			c.stop()
		}
	}
	r.centers = keep
}

func (r *Router) watch(c *center, d DC) {
	ctx, cancel := context.WithCancel(r.ctx)
	c.stop = cancel
	s := health.Schedule{Interval: r.o.Health.Interval, Timeout: r.o.Health.Timeout}
	start := func(probe health.Probe, m *health.Machine, lastErr *string) {
		r.probes.Go(func() {
			health.Run(ctx, s, probe, func(err error, _ time.Duration) {
				now := time.Now()
				r.mu.Lock()
				if ctx.Err() == nil { // not replaced by Update meanwhile
					if *lastErr = ""; err != nil {
						*lastErr = err.Error()
					}
					if m.Observe(err == nil, now) {
						r.rebuild(now)
					}
				}
				r.mu.Unlock()
				r.tell()
			})
		})
	}
	if d.Check != nil {
		start(d.Check, &c.whole, &c.lastErr)
	}
	if d.CheckAddr != nil {
		for a, st := range c.addrs {
			start(func(ctx context.Context) error { return d.CheckAddr(ctx, a) }, &st.machine, &st.lastErr)
		}
	}
}

// healthy is the verdict on a center, and the reason when it is bad. Votes that are too old are forgotten; next is when
// the following one will be, zero for never.
func (c *center) healthy(now time.Time, h *HealthOptions) (ok bool, why string, next time.Time) {
	against := 0
	for name, v := range c.votes {
		if h.VoteTTL > 0 {
			end := v.at.Add(h.VoteTTL)
			if !now.Before(end) {
				delete(c.votes, name)
				continue
			}
			if next.IsZero() || end.Before(next) {
				next = end
			}
		}
		if !v.up {
			against++
		}
	}
	lost := 2*against > len(c.votes)
	if h.Quorum > 0 {
		lost = against >= h.Quorum
	}
	alive := len(c.addrs) == 0 // none to check
	addrErr := ""
	for _, a := range c.addrs {
		alive = alive || a.machine.Up()
		addrErr = a.lastErr
	}
	switch {
	case c.drained:
		return false, "drained", next
	case !c.whole.Up():
		return false, c.lastErr, next
	case lost:
		return false, fmt.Sprintf("%d of %d votes against it", against, len(c.votes)), next
	case !alive:
		return false, "all addresses are down: " + addrErr, next
	}
	return true, "", next
}

// rebuild makes the snapshot that queries read. r.mu is held.
func (r *Router) rebuild(now time.Time) {
	v := &live{plan: r.plan, sticky: [2]int{r.o.StickyV4, r.o.StickyV6}, spill: r.o.Spill}
	any, wake := false, time.Time{}
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	for _, d := range r.dcs {
		c := r.centers[d.Name]
		up, why, voteEnds := c.healthy(now, &r.o.Health)
		sooner(voteEnds)
		if up != c.up {
			if up && r.o.Health.Ramp > 0 {
				c.rampFrom = now
			}
			c.up, c.since = up, now
			r.moves++
			if why == "" {
				why = "healthy"
			}
			r.note(Change{DC: d.Name, Up: up, Why: why, At: now})
		}
		ld := liveDC{name: d.Name, hash: placement.HashString(d.Name), up: up, share: 1, capacity: d.Capacity}
		if up && !c.rampFrom.IsZero() {
			if ld.share = c.ramp(now, r.o.Health.Ramp); ld.share < 1 {
				sooner(now.Add(max(r.o.Health.Ramp/20, 10*time.Millisecond)))
			} else {
				c.rampFrom = time.Time{}
			}
		}
		for _, a := range d.Addrs {
			st := c.addrs[a]
			if ok := st.machine.Up(); ok != st.up {
				st.up = ok
				why := st.lastErr
				if ok {
					why = "healthy"
				}
				r.note(Change{DC: d.Name, Addr: a, Up: ok, Why: why, At: now})
			}
			if st.up {
				ld.addrs = append(ld.addrs, a)
			}
		}
		if len(ld.addrs) == 0 {
			ld.addrs = d.Addrs // only ever used when health is ignored
		}
		any = any || up
		v.dcs = append(v.dcs, ld)
	}
	if !any {
		switch r.o.AllDown {
		case FailOpen:
			v.reason = ReasonFailOpen
			all := true // drained: an operator's word counts more than checks, unless it leaves nobody
			for _, d := range r.dcs {
				all = all && r.centers[d.Name].drained
			}
			for i := range v.dcs {
				v.dcs[i].up = all || !r.centers[v.dcs[i].name].drained
			}
		case FailStatic:
			v.reason, v.static = ReasonAllDown, r.o.Static
		default:
			v.reason = ReasonAllDown
		}
	}
	v.compile()
	r.live.Store(v)
	if wake.IsZero() || r.closed {
		return
	}
	if r.again != nil {
		r.again.Reset(wake.Sub(now))
		return
	}
	r.again = time.AfterFunc(wake.Sub(now), func() {
		r.mu.Lock()
		if !r.closed {
			r.rebuild(time.Now())
		}
		r.mu.Unlock()
		r.tell()
	})
}

func (c *center) ramp(now time.Time, length time.Duration) float64 {
	if length <= 0 {
		return 1
	}
	return min(1, max(0.1, float64(now.Sub(c.rampFrom))/float64(length)))
}

func (r *Router) note(c Change) {
	if r.o.OnChange != nil {
		r.changes = append(r.changes, c)
	}
}

// tell hands the changes to OnChange, in order, outside of r.mu.
func (r *Router) tell() {
	if r.o.OnChange == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	cs := r.changes
	r.changes = nil
	r.mu.Unlock()
	for _, c := range cs {
		r.o.OnChange(c)
	}
}
