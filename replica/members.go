package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/health"
)

// Add adds a node at run time. It serves reads once it was probed and has caught up.
func (c *Cluster) Add(n Node) error { return c.add(n, true) }

func (c *Cluster) add(n Node, joining bool) error {
	if n.Name == "" {
		return errors.New("replica: Node.Name is empty")
	}
	if n.Connector == nil {
		return fmt.Errorf("replica: Node.Connector of %s is nil", n.Name)
	}
	if n.Role == RoleUnknown {
		n.Role = RoleReplica
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.member(n.Name) != nil {
		return fmt.Errorf("%w: %s", ErrDuplicateNode, n.Name)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	m := &member{node: newNode(n), machine: health.NewMachine(health.Config{Rise: c.opts.Rise, Fall: c.opts.Fall}),
		cancel: cancel, done: make(chan struct{})}
	m.joining, m.overlay = joining, c.overlays[n.Name]
	c.kicks[m.node] = make(chan struct{}, 1)
	c.members = append(c.members[:len(c.members):len(c.members)], m)
	c.recompute(time.Now()) // whoever reads from now on knows that there is a node to wait for
	c.wg.Go(func() { c.probeLoop(ctx, m) })
	return nil
}

// Drain stops giving the node new work and waits until its connections have been returned, or for the context.
func (c *Cluster) Drain(ctx context.Context, name string) error {
	c.mu.Lock()
	m := c.member(name)
	if m == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownNode, name)
	}
	m.draining = true
	c.recompute(time.Now())
	c.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		m.discardIdle(0)
		if inUse, _ := m.counts(); inUse == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closing:
			return ErrClosed
		}
	}
}

// Remove forgets a node. Connections in use are closed when they are returned. A primary that is up is handed over by
// Promote before it is removed; else there is none, and the automatic promotion leaves it at that.
func (c *Cluster) Remove(name string) error {
	c.mu.Lock()
	m := c.member(name)
	if m == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownNode, name)
	}
	if m.node == c.lastPrimary && m.up() && c.primaryLost.IsZero() {
		c.left = m.node
	}
	if m.overlay > 0 { // should it be added again
		if c.overlays == nil {
			c.overlays = map[string]uint64{}
		}
		c.overlays[name] = m.overlay
	}
	members := make([]*member, 0, len(c.members))
	for _, o := range c.members {
		if o != m {
			members = append(members, o)
		}
	}
	c.members = members
	delete(c.kicks, m.node)
	c.removedReads += m.reads.Load()
	m.gen.Add(1)
	c.recompute(time.Now())
	c.mu.Unlock()
	m.cancel() // the probe under way is not waited for: its hook may be who calls
	m.retire()
	return nil
}

// janitor closes connections that have been idle for long, and asks for replacements of nodes that stay dead.
func (c *Cluster) janitor() {
	idle, replace := make(<-chan time.Time), make(<-chan time.Time) // nil options: never
	if c.opts.MaxIdleTime > 0 {
		t := time.NewTicker(max(c.opts.MaxIdleTime/4, time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	if c.opts.Replace != nil {
		t := time.NewTicker(max(c.opts.ReplaceAfter/4, 10*time.Millisecond))
		defer t.Stop()
		replace = t.C
	}
	for {
		select {
		case <-idle:
			c.mu.Lock()
			members := c.members
			c.mu.Unlock()
			for _, m := range members {
				m.tick.Add(1)
				m.discardIdle(4)
			}
		case <-replace:
			c.askReplacements()
		case <-c.closing:
			return
		}
	}
}

func (c *Cluster) askReplacements() {
	c.mu.Lock()
	var dead []NodeStatus
	for _, m := range c.members {
		if !m.replaced && !m.downSince.IsZero() && time.Since(m.downSince) >= c.opts.ReplaceAfter {
			m.replaced = true
			dead = append(dead, c.statusOf(m))
		}
	}
	c.mu.Unlock()
	for _, st := range dead {
		c.wg.Go(func() { c.opts.Replace(c.ctx, st) })
	}
}
