package assemble

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/lb"
)

// Errors of the controls.
var (
	ErrUnknownNode = errors.New("assemble: unknown node")
	// ErrSingle: the node has no second one in this mode, so ending it would end the service.
	ErrSingle = errors.New("assemble: has no second one in this mode")
	// ErrUnsupported: a node of this kind cannot fail in this way here.
	ErrUnsupported = errors.New("assemble: not possible for this node")
)

// Node is one simulated server, as an operator sees it.
type Node struct {
	ID, Tier, Zone string
	State          string // up, slow, frozen or down
}

// machine is what can be done to a node. A nil function: not possible.
type machine struct {
	Node
	gate    *gate.Gate                  // nil for what has none
	kill    func()                      // nil: through the gate
	restore func(context.Context) error // of what was killed; nil: through the gate
	used    func() (some, all bool)     // whether the tier above sends traffic to it: one of its nodes, all of them
}

// machines lists every server that runs now, from the outside in.
func (s *Stack) machines() []machine {
	var ms []machine
	of := func(n *node, m machine) {
		m.Node, m.gate = Node{n.name, n.tier, n.zone, n.state()}, n.gate
		ms = append(ms, m)
	}
	for _, n := range s.names {
		of(n.node, machine{used: func() (bool, bool) { return both(s.lookup(n)) }})
	}
	for _, c := range s.centers {
		for _, e := range c.edges {
			of(e.node, machine{restore: e.revive, used: func() (bool, bool) { return both(s.answersWith(e.ip)) }})
		}
		for _, b := range c.lbs {
			of(b.node, machine{used: func() (bool, bool) { return s.edgesUse(b.name) }})
		}
		for _, w := range c.servers() {
			of(w.node, machine{used: func() (bool, bool) { return c.balancersUse(w.name) }})
		}
		for _, p := range c.pools {
			state := "up"
			if p.dead.Load() {
				state = "down"
			}
			ms = append(ms, machine{Node: Node{c.name + "-" + p.topic, "workers", c.name, state}, kill: p.kill,
				restore: func(context.Context) error { p.revive(); return nil },
				used:    func() (bool, bool) { return both(!p.dead.Load() && p.pool.Workers() > 0) }})
		}
	}
	cache := Node{"cache", "stores", "", "up"}
	if !s.redis.CacheAlive() {
		cache.State = "down"
	}
	ms = append(ms, machine{Node: cache, kill: s.redis.KillCache,
		restore: func(context.Context) error {
			return s.redis.ReviveCache()
		}, used: func() (bool, bool) { return both(s.redis.CacheAlive()) }})
	for _, sn := range s.data.shards {
		for _, n := range sn.ship.Nodes() {
			ms = append(ms, machine{Node: Node{n.ID(), "database", n.Zone(), stateOf(n.Gate())}, gate: n.Gate(),
				restore: func(ctx context.Context) error { return sn.restart(ctx, n.ID()) },
				used:    func() (bool, bool) { return sn.seenUp(n.ID()) }})
		}
	}
	return ms
}

// Nodes lists every server that runs now.
func (s *Stack) Nodes() []Node {
	var ns []Node
	for _, m := range s.machines() {
		ns = append(ns, m.Node)
	}
	return ns
}

func (s *Stack) machine(id string) (machine, error) {
	if id == "queue" || id == "sessions" {
		return machine{}, fmt.Errorf("%w: %s", ErrSingle, id)
	}
	ms := s.machines()
	i := slices.IndexFunc(ms, func(m machine) bool { return m.ID == id })
	if i < 0 {
		return machine{}, fmt.Errorf("%w: %q", ErrUnknownNode, id)
	}
	return ms[i], nil
}

// Kill ends a node at once, as kill -9 would. When it returns, nothing that the node had begun can still take effect.
func (s *Stack) Kill(id string) error {
	m, err := s.machine(id)
	switch {
	case err != nil:
		return err
	case m.kill != nil:
		m.kill()
	default:
		m.gate.Kill()
	}
	return nil
}

// Freeze stops a node without closing its connections, as SIGSTOP would.
func (s *Stack) Freeze(id string) error {
	m, err := s.machine(id)
	if err != nil {
		return err
	}
	if m.gate == nil {
		return fmt.Errorf("%w: %s cannot be frozen", ErrUnsupported, id)
	}
	m.gate.Freeze()
	return nil
}

// Slow delays everything that a node reads by d.
func (s *Stack) Slow(id string, d time.Duration) error {
	m, err := s.machine(id)
	if err != nil {
		return err
	}
	if m.gate == nil {
		return fmt.Errorf("%w: %s cannot be slowed down", ErrUnsupported, id)
	}
	m.gate.Slow(d)
	return nil
}

// Restore brings a node back: it thaws what is frozen, speeds up what is slow, and starts a new server in the place of
// one that was killed.
func (s *Stack) Restore(ctx context.Context, id string) error {
	m, err := s.machine(id)
	if err != nil {
		return err
	}
	if m.gate != nil {
		m.gate.Slow(0)
		if m.gate.State() == gate.Frozen {
			m.gate.Thaw()
			return nil
		}
	}
	switch {
	case m.State == "up":
		return nil
	case m.restore != nil:
		return m.restore(ctx)
	}
	m.gate.Revive()
	return nil
}

// Used reports whether any node of the tier above sends traffic to a node.
func (s *Stack) Used(id string) bool {
	m, err := s.machine(id)
	if err != nil {
		return false
	}
	some, _ := m.used()
	return some
}

// Whole reports whether a node is up and every node of the tier above that is alive sends traffic to it.
func (s *Stack) Whole(id string) bool {
	m, err := s.machine(id)
	if err != nil || m.State != "up" {
		return false
	}
	_, all := m.used()
	return all
}

func both(used bool) (some, all bool) { return used, used }

// KillCenter ends everything that stands in a data center, as the loss of its power would.
func (s *Stack) KillCenter(name string) error {
	c := s.center(name)
	if c == nil {
		return fmt.Errorf("%w: data center %q", ErrUnknownNode, name)
	}
	c.mu.Lock()
	c.down = true
	c.mu.Unlock()
	for _, m := range s.machines() {
		switch {
		case m.Zone != name:
		case m.kill != nil:
			m.kill()
		default:
			m.gate.Kill()
		}
	}
	return nil
}

// RestoreCenter brings a data center back, from the databases to the edges.
func (s *Stack) RestoreCenter(ctx context.Context, name string) error {
	c := s.center(name)
	if c == nil {
		return fmt.Errorf("%w: data center %q", ErrUnknownNode, name)
	}
	ms := s.machines()
	for _, tier := range []string{"database", "lb", "web", "edge", "workers"} {
		for _, m := range ms {
			if m.Zone == name && m.Tier == tier {
				if err := s.Restore(ctx, m.ID); err != nil {
					return err
				}
			}
		}
		if tier == "web" {
			c.mu.Lock()
			c.down = false
			c.mu.Unlock()
		}
	}
	return nil
}

func (s *Stack) center(name string) *center {
	for _, c := range s.centers {
		if c.name == name {
			return c
		}
	}
	return nil
}

// lookup resolves the site's name at one name server, or at the other should it not answer, as a client does.
func (s *Stack) lookup(first *nameServer) bool {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(Host), dns.TypeA)
	for _, n := range append([]*nameServer{first}, s.names...) {
		c := dns.Client{Timeout: 250 * time.Millisecond}
		if a, _, err := c.Exchange(q, n.srv.Addr().String()); err == nil && len(a.Answer) > 0 {
			return n == first
		}
	}
	return false
}

// edgesUse asks the edges that are alive about a balancer.
func (s *Stack) edgesUse(id string) (some, all bool) {
	all = true
	for _, c := range s.centers {
		for _, e := range c.edges {
			if e.alive() {
				u := uses(e.up, id)
				some, all = some || u, all && u
			}
		}
	}
	return some, all
}

// balancersUse asks the balancers of the center that are alive about a web server.
func (c *center) balancersUse(id string) (some, all bool) {
	all = true
	for _, b := range c.lbs {
		if b.alive() {
			u := uses(b.lb, id)
			some, all = some || u, all && u
		}
	}
	return some, all
}

func uses(b *lb.Balancer, id string) bool {
	for _, x := range b.Backends() {
		if x.ID() == id {
			return x.State() == lb.StateUp
		}
	}
	return false
}

// CacheTrouble counts what first cache tiers noticed of a second one that fails.
func (s *Stack) CacheTrouble() (n int64) {
	for _, c := range s.centers {
		for _, w := range c.servers() {
			st := w.tiered.Stats()
			n += st.RemoteErrors + st.Untrusted
		}
	}
	return n
}

// KillWorkerMidJob kills the workers of the center whose next batch of views is being counted.
func (s *Stack) KillWorkerMidJob(ctx context.Context) error {
	select {
	case c := <-s.midJob:
		for _, p := range c.pools {
			p.pool.Kill(1 << 20)
		}
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("no worker was at work within 5 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LeasesExpired counts the queue's leases that ended without a settlement: a worker was lost.
func (s *Stack) LeasesExpired() int64 { return s.queue.Stats().LeaseExpired }

// ShardIDs lists the shards.
func (s *Stack) ShardIDs() []string {
	var ids []string
	for _, sn := range s.data.shards {
		ids = append(ids, sn.id)
	}
	return ids
}

// Primary returns the node of a shard that accepts writes now, "" if there is none.
func (s *Stack) Primary(shard string) string {
	if sn := s.data.shard(shard); sn != nil {
		return sn.primary()
	}
	return ""
}

// Replica returns a node of a shard that is no primary, in the given zone if there is one.
func (s *Stack) Replica(shard, zone string) string {
	sn := s.data.shard(shard)
	if sn == nil {
		return ""
	}
	primary, other := sn.primary(), ""
	for _, n := range sn.ship.Nodes() {
		switch {
		case n.ID() == primary || n.Gate().State() != gate.Open:
		case n.Zone() == zone:
			return n.ID()
		default:
			other = n.ID()
		}
	}
	return other
}

// KillPrimary kills the primary of a shard while one of its standbys is behind, so that taking just any standby would
// lose acknowledged writes. It returns the node's name.
func (s *Stack) KillPrimary(ctx context.Context, shard string) (string, error) {
	sn := s.data.shard(shard)
	primary := s.Primary(shard)
	if primary == "" {
		return "", fmt.Errorf("shard %s has no primary", shard)
	}
	behind := sn.standby(primary)
	sn.cut.Store(&behind)
	if err := sn.fallBehind(ctx, primary, behind); err != nil {
		return primary, err
	}
	sn.gates[primary].Kill()
	sn.cut.Store(nil) // nothing is sent any more that the standby could catch up with
	return primary, nil
}

// Writable reports whether a shard accepts a write.
func (s *Stack) Writable(ctx context.Context, shard string) bool {
	sn := s.data.shard(shard)
	if sn == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := sn.byZone[West].DB().ExecContext(ctx, `DELETE FROM writes WHERE id = ?`, "no such write")
	return err == nil
}

// ShardWhole reports whether every node of a shard serves again, as both data centers see it.
func (s *Stack) ShardWhole(shard string) bool {
	sn := s.data.shard(shard)
	return sn != nil && sn.whole()
}

// whole reports whether every node serves again, as both centers see it.
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

// seenUp asks both data centers about a database node.
func (sn *shardNodes) seenUp(node string) (some, all bool) {
	east, west := sn.state(East, node) == "up", sn.state(West, node) == "up"
	return east || west, east && west
}

// state is how one center sees a database node.
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
