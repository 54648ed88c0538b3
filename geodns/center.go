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
	votes    map[string]bool
	drained  bool
	up       bool
	since    time.Time
	rampFrom time.Time // zero: no ramp
	stop     func()
}

type address struct {
	machine health.Machine
	lastErr string
	up      bool
}

// adopt makes the centres match dcs and starts their checks. r.mu is held.
func (r *Router) adopt(dcs []DC) {
	h := r.o.Health
	machine := func() health.Machine {
		return health.NewMachine(health.Config{Rise: h.Rise, Fall: h.Fall, MinHold: h.MinHold})
	}
	keep := map[string]*center{}
	for _, d := range dcs {
		c := r.centers[d.Name]
		if c == nil {
			c = &center{name: d.Name, whole: machine(), votes: map[string]bool{}, up: true, stop: func() {}}
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

// healthy is the verdict on a centre, and the reason when it is bad.
func (c *center) healthy() (ok bool, why string) {
	against := 0
	for _, up := range c.votes {
		if !up {
			against++
		}
	}
	alive := len(c.addrs) == 0
	addrErr := ""
	for _, a := range c.addrs {
		alive = alive || a.machine.Up()
		addrErr = a.lastErr
	}
	switch {
	case c.drained:
		return false, "drained"
	case !c.whole.Up():
		return false, c.lastErr
	case 2*against > len(c.votes):
		return false, fmt.Sprintf("%d of %d votes against it", against, len(c.votes))
	case !alive:
		return false, "all addresses are down: " + addrErr
	}
	return true, ""
}

// rebuild makes the snapshot that queries read. r.mu is held.
func (r *Router) rebuild(now time.Time) {
	v := &live{plan: r.plan, sticky: [2]int{r.o.StickyV4, r.o.StickyV6}, spill: r.o.Spill}
	any, ramping := false, false
	for _, d := range r.dcs {
		c := r.centers[d.Name]
		up, why := c.healthy()
		if up != c.up {
			if up && r.o.Health.Ramp > 0 {
				c.rampFrom = now
			}
			c.up, c.since = up, now
			if why == "" {
				why = "healthy"
			}
			r.note(Change{DC: d.Name, Up: up, Why: why, At: now})
		}
		ld := liveDC{name: d.Name, hash: placement.HashString(d.Name), up: up, share: 1, capacity: d.Capacity}
		if up && !c.rampFrom.IsZero() {
			if ld.share = c.ramp(now, r.o.Health.Ramp); ld.share < 1 {
				ramping = true
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
	if ramping && !r.closed {
		step := max(r.o.Health.Ramp/20, 10*time.Millisecond)
		if r.ramping == nil {
			r.ramping = time.AfterFunc(step, func() {
				r.mu.Lock()
				if !r.closed {
					r.rebuild(time.Now())
				}
				r.mu.Unlock()
				r.tell()
			})
		} else {
			r.ramping.Reset(step)
		}
	}
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

// alter changes a centre under the lock.
func (r *Router) alter(dc string, f func(*center)) error {
	r.mu.Lock()
	c := r.centers[dc]
	if c == nil {
		r.mu.Unlock()
		return fmt.Errorf("%w %q", ErrUnknownDC, dc)
	}
	f(c)
	r.rebuild(time.Now())
	r.mu.Unlock()
	r.tell()
	return nil
}

// Drain takes a centre out of answers until [Router.Undrain]. Clients leave as their answers' TTL ends.
func (r *Router) Drain(dc string) error {
	return r.alter(dc, func(c *center) { c.drained = true })
}

// Undrain lets a centre take traffic again, with the ramp.
func (r *Router) Undrain(dc string) error {
	return r.alter(dc, func(c *center) { c.drained = false })
}

// Vote sets a centre's health as one of several named probers sees it; a centre is down when more than half of its
// voters say so. Votes come on top of the router's own checks, and stay until they are changed.
func (r *Router) Vote(dc, voter string, up bool) error {
	return r.alter(dc, func(c *center) {
		if _, ok := c.votes[voter]; ok || len(c.votes) < 1000 {
			c.votes[voter] = up
		}
	})
}

// DCState is the state of a centre in a [Router.Snapshot].
type DCState struct {
	Name    string
	Up      bool
	Drained bool
	Ramp    float64 // share of its traffic that it takes now, 0 to 1
	Addrs   []AddrState
	Since   time.Time // of the last change; zero: none since the start
	LastErr string    // of its last check; "" when that was good
}

// AddrState is the state of one address.
type AddrState struct {
	Addr    netip.Addr
	Up      bool
	LastErr string
}

// Snapshot returns the state of all centres, in the order of the options.
func (r *Router) Snapshot() []DCState {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]DCState, 0, len(r.dcs))
	for _, d := range r.dcs {
		c := r.centers[d.Name]
		s := DCState{Name: d.Name, Up: c.up, Drained: c.drained, Since: c.since, LastErr: c.lastErr}
		if c.up {
			s.Ramp = 1
			if !c.rampFrom.IsZero() {
				s.Ramp = c.ramp(now, r.o.Health.Ramp)
			}
		}
		for _, a := range d.Addrs {
			s.Addrs = append(s.Addrs, AddrState{a, c.addrs[a].up, c.addrs[a].lastErr})
		}
		out = append(out, s)
	}
	return out
}
