package assemble

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
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
