package assemble

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/lb"
)

// Failover is one injected failure and how the stack took it.
type Failover struct {
	What string `json:"what"`
	// AtS is when it was injected, in seconds from the start of the play.
	AtS float64 `json:"at_s"`
	// DetectedMS is until the tier above stopped using what had failed, RecoveredMS until its work was done again by
	// others; -1 when that did not happen within 10 s.
	DetectedMS  float64 `json:"detected_ms"`
	RecoveredMS float64 `json:"recovered_ms"`
	// WindowMS is how long clients may feel it: with errors for a lost centre, with delayed writes for a lost primary,
	// and not at all (0) for everything else.
	WindowMS float64 `json:"window_ms"`

	At      time.Time `json:"-"`
	Excuses bool      `json:"-"` // errors within the window are allowed
}

// Hooks are what the drills need of the play.
type Hooks struct {
	Start time.Time
	// Writing reports whether at least one write is in flight.
	Writing func() bool
	// Only names the drills to carry out; nil means all.
	Only []string
}

// drill is one failure: inject, wait until it is detected and recovered from, hold, and bring the node back.
type drill struct {
	what      string
	window    time.Duration
	excuses   bool
	inject    func(ctx context.Context) error
	detected  func() bool
	recovered func(ctx context.Context) bool // nil: when detected
	hold      time.Duration
	revive    func(ctx context.Context) error
	whole     func() bool // everything is as before
}

// Chaos breaks one of each redundant tier and then a whole centre, one after the other, spread over the duration of the
// play, each while a write is in flight. It returns what happened; an error means that a drill could not be carried
// out.
func (s *Stack) Chaos(ctx context.Context, h Hooks, play time.Duration) ([]Failover, error) {
	drills := slices.DeleteFunc(s.drills(), func(d drill) bool {
		return h.Only != nil && !slices.Contains(h.Only, d.what)
	})
	var out []Failover
	for i, d := range drills {
		// The first at 8 % of the play, the last (the centre) at 66 %, and never sooner than the one before is over.
		due := h.Start.Add(time.Duration(float64(play) * (0.08 + 0.58*float64(i)/float64(max(len(drills)-1, 1)))))
		if err := backoff.Sleep(ctx, time.Until(due)); err != nil {
			return out, err
		}
		f, err := s.run(ctx, d, h)
		if err != nil {
			return out, fmt.Errorf("drill %q: %w", d.what, err)
		}
		out = append(out, f)
	}
	return out, nil
}

func (s *Stack) run(ctx context.Context, d drill, h Hooks) (Failover, error) {
	for wait := time.Now(); h.Writing != nil && !h.Writing() && time.Since(wait) < time.Second; {
		if err := backoff.Sleep(ctx, time.Millisecond); err != nil {
			return Failover{}, err
		}
	}
	at := time.Now() // before the injection: what it takes is part of the failure
	f := Failover{What: d.what, At: at, AtS: at.Sub(h.Start).Seconds(), WindowMS: ms(d.window), Excuses: d.excuses}
	s.Event("failure", "injected: "+d.what)
	if err := d.inject(ctx); err != nil {
		return f, err
	}
	f.DetectedMS = until(ctx, at, limit, d.detected)
	f.RecoveredMS = f.DetectedMS
	if d.recovered != nil {
		f.RecoveredMS = until(ctx, at, limit, func() bool { return d.recovered(ctx) })
	}
	if err := backoff.Sleep(ctx, d.hold); err != nil {
		return f, err
	}
	if d.revive != nil {
		if err := d.revive(ctx); err != nil {
			return f, err
		}
		s.Event("recovery", "back: "+d.what)
	}
	if d.whole != nil && until(ctx, time.Now(), 3*limit, d.whole) < 0 {
		return f, fmt.Errorf("not whole again after %v", 3*limit)
	}
	return f, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// limit is how long a drill waits for what should take far less.
const limit = 10 * time.Second

// until polls a condition and returns the milliseconds since at, or -1.
func until(ctx context.Context, at time.Time, most time.Duration, cond func() bool) float64 {
	for start := time.Now(); time.Since(start) < most && ctx.Err() == nil; {
		if cond() {
			return ms(time.Since(at))
		}
		_ = backoff.Sleep(ctx, 2*time.Millisecond)
	}
	return -1
}

func (s *Stack) drills() []drill {
	east, west := s.centers[0], s.centers[1]
	ns, e, b := s.names[0], west.edges[0], east.lbs[0]
	s1, s2 := s.data.shards[0], s.data.shards[1]
	var w *web
	var expired int64
	var worker *center
	var primary, frozen string
	var untrusted int64

	return []drill{
		{what: "name server " + ns.name, hold: time.Second,
			inject:   func(context.Context) error { ns.gate.Kill(); return nil },
			detected: func() bool { return s.lookup() },
			revive:   func(context.Context) error { ns.gate.Revive(); return nil }},
		{what: "edge " + e.name, hold: time.Second,
			inject:   func(context.Context) error { e.gate.Kill(); return nil },
			detected: func() bool { return !s.answersWith(e.ip) },
			revive:   e.revive, whole: func() bool { return s.answersWith(e.ip) }},
		{what: "balancer " + b.name, hold: time.Second,
			inject:   func(context.Context) error { b.gate.Kill(); return nil },
			detected: func() bool { return !s.edgesSee(b.name, true) },
			revive:   func(context.Context) error { b.gate.Revive(); return nil },
			whole:    func() bool { return s.edgesSee(b.name, false) }},
		{what: "a web server", hold: time.Second,
			inject: func(context.Context) error {
				west.mu.Lock()
				w = west.webs[0]
				west.mu.Unlock()
				w.gate.Kill()
				return nil
			},
			detected: func() bool { return !west.balancersSee(w.name, true) },
			revive:   func(context.Context) error { w.gate.Revive(); return nil },
			whole:    func() bool { return west.balancersSee(w.name, false) }},
		{what: "a worker in the middle of a job",
			inject: func(ctx context.Context) error {
				expired = s.queue.Stats().LeaseExpired
				select {
				case worker = <-s.midJob:
				case <-time.After(5 * time.Second):
					return fmt.Errorf("no worker was at work within 5 s")
				case <-ctx.Done():
					return ctx.Err()
				}
				for _, p := range worker.pools {
					p.pool.Kill(1 << 20)
				}
				return nil
			},
			detected: func() bool { return s.queue.Stats().LeaseExpired > expired }},
		{what: "the second cache tier", hold: time.Second,
			inject: func(context.Context) error {
				untrusted = s.cacheTrouble()
				s.redis.KillCache()
				return nil
			},
			detected: func() bool { return s.cacheTrouble() > untrusted },
			revive:   func(context.Context) error { return s.redis.ReviveCache() }},
		{what: "a replica frozen", hold: time.Second,
			inject: func(context.Context) error {
				for id := range s2.gates {
					if id != s2.primary() && zoneOf(id) == East {
						frozen = id
					}
				}
				if frozen == "" {
					frozen = nodeID(s2.id, Witness)
				}
				s2.gates[frozen].Freeze()
				return nil
			},
			detected: func() bool { return s2.state(East, frozen) == "down" },
			revive:   func(context.Context) error { s2.gates[frozen].Thaw(); return nil },
			whole:    func() bool { return s2.state(East, frozen) == "up" && s2.state(West, frozen) == "up" }},
		{what: "the primary of shard " + s1.id, window: time.Second, hold: time.Second,
			inject: func(ctx context.Context) error {
				// One standby falls behind first, so that taking just any of them would lose acknowledged writes.
				if primary = s1.primary(); primary == "" {
					return fmt.Errorf("shard %s has no primary", s1.id)
				}
				behind := s1.standby(primary)
				s1.cut.Store(&behind)
				if err := s1.fallBehind(ctx, primary, behind); err != nil {
					return err
				}
				s1.kill(primary)
				s1.cut.Store(nil) // nothing is sent any more that the standby could catch up with
				return nil
			},
			detected:  func() bool { return s1.state(East, primary) == "down" || s1.primary() != "" },
			recovered: s1.writable(s),
			revive:    func(ctx context.Context) error { return s1.restart(ctx, primary) },
			whole:     s1.whole},
		{what: "the data centre " + East, window: CenterWindow, excuses: true, hold: 2 * time.Second,
			inject:    func(context.Context) error { s.killCenter(east); return nil },
			detected:  func() bool { return !s.answersWith(east.edges[0].ip) && !s.answersWith(east.edges[1].ip) },
			recovered: func(ctx context.Context) bool { return s1.writable(s)(ctx) && s2.writable(s)(ctx) },
			revive:    func(ctx context.Context) error { return s.reviveCenter(ctx, east) },
			whole: func() bool {
				return s.answersWith(east.edges[0].ip) && s.answersWith(east.edges[1].ip) && s1.whole() && s2.whole()
			}},
	}
}

// lookup resolves as a client does: the first server, then the second.
func (s *Stack) lookup() bool {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(Host), dns.TypeA)
	for _, n := range s.names {
		c := dns.Client{Timeout: 250 * time.Millisecond}
		if a, _, err := c.Exchange(q, n.srv.Addr().String()); err == nil && len(a.Answer) > 0 {
			return true
		}
	}
	return false
}

// edgesSee reports whether any (or else every) edge that is alive would use a balancer.
func (s *Stack) edgesSee(id string, anyOf bool) bool {
	for _, c := range s.centers {
		for _, e := range c.edges {
			if e.alive() && uses(e.up, id) == anyOf {
				return anyOf
			}
		}
	}
	return !anyOf
}

func (c *center) balancersSee(id string, anyOf bool) bool {
	for _, b := range c.lbs {
		if b.alive() && uses(b.lb, id) == anyOf {
			return anyOf
		}
	}
	return !anyOf
}

func uses(b *lb.Balancer, id string) bool {
	for _, x := range b.Backends() {
		if x.ID() == id {
			return x.State() == lb.StateUp
		}
	}
	return false
}

// cacheTrouble counts what first tiers noticed of a second one that fails.
func (s *Stack) cacheTrouble() (n int64) {
	for _, c := range s.centers {
		c.mu.Lock()
		for _, w := range c.webs {
			st := w.tiered.Stats()
			n += st.RemoteErrors + st.Untrusted
		}
		c.mu.Unlock()
	}
	return n
}

// state is how one centre sees a database node.
func (sn *shardNodes) state(zone, node string) string {
	for _, n := range sn.byZone[zone].Status().Nodes {
		if n.Name == node {
			return n.State
		}
	}
	return ""
}

// standby picks the standby that is to fall behind, preferring the nearest to the front of a careless list.
func (sn *shardNodes) standby(primary string) string {
	for _, n := range sn.ship.Nodes() {
		if n.ID() != primary && sn.gates[n.ID()].State() == gate.Open {
			return n.ID()
		}
	}
	return ""
}

// fallBehind waits until acknowledged writes have reached the other standby but not this one.
func (sn *shardNodes) fallBehind(ctx context.Context, primary, behind string) error {
	start := sn.ship.Node(behind).Status().Received
	for wait := time.Now(); time.Since(wait) < 5*time.Second; {
		if sn.ship.Node(primary).Status().Received >= start+5 {
			return nil
		}
		if err := backoff.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("no writes on shard %s within 5 s", sn.id)
}

// writable reports whether the shard accepts a write, through the centre that is alive.
func (sn *shardNodes) writable(s *Stack) func(context.Context) bool {
	return func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_, err := sn.byZone[West].DB().ExecContext(ctx, `DELETE FROM writes WHERE id = ?`, "no such write")
		return err == nil
	}
}

// whole reports whether every node serves again, as both centres see it.
func (sn *shardNodes) whole() bool {
	if sn.primary() == "" {
		return false
	}
	for _, rc := range sn.byZone {
		for _, n := range rc.Status().Nodes {
			if n.State != "up" || n.Fenced != "" {
				return false
			}
		}
	}
	return true
}

// killCenter ends everything that stands in a centre, as the loss of its power would.
func (s *Stack) killCenter(c *center) {
	c.mu.Lock()
	c.down = true
	c.mu.Unlock()
	for _, n := range c.nodes() {
		n.gate.Kill()
	}
	for _, p := range c.pools {
		p.kill()
	}
	for _, sn := range s.data.shards {
		sn.kill(nodeID(sn.id, c.name))
	}
}

func (s *Stack) reviveCenter(ctx context.Context, c *center) error {
	for _, sn := range s.data.shards {
		if err := sn.restart(ctx, nodeID(sn.id, c.name)); err != nil {
			return err
		}
	}
	for _, b := range c.lbs {
		b.gate.Revive()
	}
	c.mu.Lock()
	for _, w := range c.webs {
		w.gate.Revive()
	}
	c.down = false
	c.mu.Unlock()
	for _, e := range c.edges {
		if err := e.revive(ctx); err != nil {
			return err
		}
	}
	for _, p := range c.pools {
		p.revive()
	}
	return nil
}
