package replica

import (
	"context"
	"math/rand/v2"
	"time"
)

// target is where a statement is to run.
type target struct {
	node   *node
	gen    uint64 // of the primary when it was chosen
	role   Role
	reason string // why not a replica
	spill  bool   // needs a place under SpillLimit
	missed bool   // no replica has what the session saw
	waited time.Duration
	// wait: the replica must be asked whether it has reached want before the statement runs on it.
	wait bool
	want Position
}

// waitTopology returns a topology that satisfies ok, waiting at most d for one.
func (c *Cluster) waitTopology(ctx context.Context, d time.Duration, ok func(*topology) bool) (*topology, error) {
	t := c.topo.Load()
	if ok(t) || d <= 0 {
		return t, nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for !ok(t) {
		select {
		case <-t.changed:
			t = c.topo.Load()
		case <-timer.C:
			return t, nil
		case <-ctx.Done():
			return t, ctx.Err()
		case <-c.closing:
			return t, ErrClosed
		}
	}
	return t, nil
}

func hasPrimary(t *topology) bool { return t.primary != nil }
func hasReplica(t *topology) bool { return len(t.readable) > 0 || !t.unprobed }
func isReady(t *topology) bool    { return t.ready }

// pickPrimary waits for a primary.
func (c *Cluster) pickPrimary(ctx context.Context) (*node, uint64, error) {
	if t := c.topo.Load(); t.primary != nil {
		return t.primary, t.gen, nil
	}
	t, err := c.waitTopology(ctx, c.opts.PrimaryWait, hasPrimary)
	if err != nil {
		return nil, 0, err
	}
	if t.primary == nil {
		return nil, 0, t.noPrimary()
	}
	return t.primary, t.gen, nil
}

// stillPrimary: p is a connection to the node that was chosen at gen, and that has not lost its role or its life on the
// way to it. A former primary accepts writes.
func stillPrimary(p *phys, gen uint64) bool {
	return p.gen == gen && p.node.gen.Load() == gen && !p.node.ended()
}

// pickAny is the usual case: no session, no wishes, a replica there. nil: look closer.
func (c *Cluster) pickAny() *node {
	t := c.topo.Load()
	group := t.readable
	if t.local > 0 {
		group = group[:t.local]
	}
	if len(group) == 0 || !t.ready {
		return nil
	}
	return two(group).node
}

// pick chooses where a read runs. avoid is a node that has just failed this very read; placed: its use holds a place
// under SpillLimit already.
func (c *Cluster) pick(ctx context.Context, r route, s *Session, avoid *node, placed bool) (target, error) {
	t := c.topo.Load()
	if !t.ready {
		var err error
		if t, err = c.waitTopology(ctx, c.opts.PrimaryWait, isReady); err != nil {
			return target{}, err
		}
	}
	if r.primary {
		return c.toPrimary(ctx, "asked for by the context")
	}
	// at the start, the primary must not get all reads because its probe was answered first
	if len(t.readable) == 0 && t.unprobed {
		var err error
		if t, err = c.waitTopology(ctx, c.opts.ProbeTimeout, hasReplica); err != nil {
			return target{}, err
		}
	}
	var f floor
	if s != nil {
		var refuse bool
		f, refuse = s.floorFor(c.opts.Name, t, c.dialect)
		if refuse {
			c.n.tokensRefused.Add(1)
		}
		if f.unknown && !r.replica {
			return c.toPrimary(ctx, "session wrote and its position is not known")
		}
	}
	ch := c.choose(t, &f, r.maxLag, avoid)
	switch {
	case ch.best != nil && ch.fresh:
		if !f.pos.IsZero() {
			c.n.tokenHits.Add(1)
		}
		return target{node: ch.best.node, role: RoleReplica}, nil
	case ch.best != nil && ch.bounded && c.opts.WaitBudget > 0:
		return target{node: ch.best.node, role: RoleReplica, wait: true, want: ch.want}, nil
	case ch.best != nil: // none is fresh, and waiting would not make it so
		c.n.tokenMisses.Add(1)
		if r.replica {
			return target{}, ErrNoReplica
		}
		t, err := c.toPrimary(ctx, "no replica has what the session saw")
		t.missed = true
		return t, err
	case r.replica:
		return target{}, ErrNoReplica
	case t.replicas == 0:
		return c.toPrimary(ctx, "no replicas")
	}
	if !placed {
		if err := c.spill.enter(ctx); err != nil {
			c.n.spillRefused.Add(1)
			return target{}, err
		}
	}
	n, _, err := c.pickPrimary(ctx)
	if err != nil {
		if !placed {
			c.spill.leave()
		}
		return target{}, err
	}
	c.n.spilled.Add(1)
	return target{node: n, role: RolePrimary, reason: "no usable replica", spill: true}, nil
}

func (c *Cluster) toPrimary(ctx context.Context, reason string) (target, error) {
	n, _, err := c.pickPrimary(ctx)
	return target{node: n, role: RolePrimary, reason: reason}, err
}

// choice is what choose found: a fresh replica, or the most advanced one and what it must be waited for.
type choice struct {
	best    *candidate
	fresh   bool
	want    Position
	bounded bool // want covers all that the session may have seen
}

// choose picks by two random choices among the replicas that are fresh enough, the local ones if there are any.
func (c *Cluster) choose(t *topology, f *floor, maxLag time.Duration, avoid *node) choice {
	if len(t.readable) == 0 {
		return choice{}
	}
	if f.pos.IsZero() && f.node == "" && maxLag == 0 && avoid == nil { // the usual case
		group := t.readable
		if t.local > 0 {
			group = group[:t.local]
		}
		return choice{best: two(group), fresh: true}
	}
	var last *candidate // stay where the session read last: the same replica never goes back in time
	if f.node != "" {
		for i := range t.readable {
			if k := &t.readable[i]; k.node.Name == f.node && k.node != avoid && (maxLag == 0 || k.lag <= maxLag) {
				last = k
				break
			}
		}
		if last != nil && c.covers(last.pos, f.pos) {
			return choice{best: last, fresh: true}
		}
	}
	seen := f.seen(t)
	want := f.pos
	if seen.ok && !seen.pos.IsZero() && !c.covers(want, seen.pos) {
		want = seen.pos
	}
	var fresh, rest, behind pair
	for i := range t.readable {
		k := &t.readable[i]
		if k.node == avoid || maxLag > 0 && k.lag > maxLag {
			continue
		}
		if t.local > 0 && i >= t.local && fresh.n > 0 {
			break // a local one is fresh
		}
		if seen.ok && c.covers(k.pos, want) {
			fresh.add(k)
		} else if k.lag <= c.opts.WaitBudget { // its probe is older than the write, but it keeps up
			rest.add(k)
		} else {
			behind.add(k)
		}
	}
	switch {
	case fresh.n > 0:
		return choice{best: fresh.best(), fresh: true}
	case last != nil:
		return choice{best: last, want: f.pos, bounded: true}
	case rest.n > 0:
		return choice{best: rest.best(), want: want, bounded: seen.ok}
	}
	// Replicas that are known to lag too far are named without being offered, so that the caller can tell this from
	// having none.
	return choice{best: behind.a}
}

// pair holds two random ones of those added to it (reservoir sampling), without allocating.
type pair struct {
	a, b *candidate
	n    int
}

func (p *pair) add(k *candidate) {
	p.n++
	switch {
	case p.n == 1:
		p.a = k
	case p.n == 2:
		p.b = k
	default:
		switch i := rand.IntN(p.n); i {
		case 0:
			p.a = k
		case 1:
			p.b = k
		}
	}
}

func (p *pair) best() *candidate {
	switch {
	case p.n == 1:
		return p.a
	case rand.Uint32()&1 == 0: // ties go either way
		return better(p.a, p.b)
	}
	return better(p.b, p.a)
}

func (c *Cluster) covers(have, want Position) bool {
	return want.IsZero() || c.dialect.Covers(have, want)
}

func two(g []candidate) *candidate {
	switch len(g) {
	case 1:
		return &g[0]
	case 2:
		if rand.Uint32()&1 == 0 {
			return better(&g[0], &g[1])
		}
		return better(&g[1], &g[0])
	}
	i := rand.IntN(len(g))
	j := rand.IntN(len(g) - 1)
	if j >= i {
		j++
	}
	return better(&g[i], &g[j])
}

// better compares load per weight, with lag as a handicap: each 100 ms of lag weighs like doubling the load.
func better(a, b *candidate) *candidate {
	if score(b) < score(a) {
		return b
	}
	return a
}

func score(k *candidate) float64 {
	return float64(k.node.inFlight.Load()+1) / float64(max(k.node.Weight, 1)) * (1 +
		float64(k.lag)/float64(100*time.Millisecond))
}
