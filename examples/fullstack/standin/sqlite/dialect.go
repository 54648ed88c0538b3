package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/replica"
)

// Dialect is the replica dialect with probes, positions and promotion of this cluster. Use it with
// Promotion.MinStandbys 2 for three nodes: any two of them hold every acknowledged write.
func (c *Cluster) Dialect() replica.Dialect {
	return replica.Plain(replica.PlainHooks{
		Name:    "logship",
		Probe:   c.probe,
		Capture: c.capture,
		Reached: c.reached,
		Kind:    kind,
		Cut:     c.cut,
		Promote: c.promote,
		Follow:  c.follow,
	})
}

func (c *Cluster) pos(p position) replica.Position {
	return replica.Position{System: c.opts.Name, Timeline: p.epoch, Offset: p.seq}
}

// state: a primary that stopped is a replica that nobody feeds; it holds all that it acknowledged and may be promoted
// again.
func (c *Cluster) state(e *engine) replica.NodeState {
	st := replica.NodeState{Role: replica.RoleReplica, Replayed: c.pos(e.applied()), Received: c.pos(e.log.last()),
		Synchronous: len(c.nodes) > 1}
	if epoch := e.leading.Load(); epoch > 0 && !e.stopped.Load() {
		st.Role = replica.RolePrimary
		st.Replayed.Timeline, st.Received.Timeline = epoch, epoch
		st.Received = st.Replayed
	}
	return st
}

func (c *Cluster) probe(ctx context.Context, dc driver.Conn) (st replica.NodeState, err error) {
	e := dc.(*conn).e
	err = e.pass(ctx, func() error { st = c.state(e); return nil })
	return st, err
}

func (c *Cluster) capture(ctx context.Context, dc driver.Conn) (p replica.Position, err error) {
	e := dc.(*conn).e
	err = e.pass(ctx, func() error { p = c.pos(e.applied()); return nil })
	return p, err
}

func (c *Cluster) reached(ctx context.Context, dc driver.Conn, want replica.Position, budget time.Duration) (bool,
	error) {
	e := dc.(*conn).e
	if err := e.pass(ctx, func() error { return nil }); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return e.waitApplied(ctx, position{want.Timeline, want.Offset}), nil
}

func kind(err error) replica.ErrorKind {
	switch {
	case errors.Is(err, ErrCommitUnknown):
		return replica.KindLost
	case errors.Is(err, ErrNotPrimary), errors.Is(err, ErrStale):
		return replica.KindReadOnly
	case errors.Is(err, gate.ErrDead), errors.Is(err, errClosed):
		return replica.KindRefused
	}
	return replica.KindOther
}

// cut refuses every append until the node is promoted or hears of a higher epoch, so that its position is final.
func (c *Cluster) cut(ctx context.Context, dc driver.Conn) (st replica.NodeState, err error) {
	e := dc.(*conn).e
	err = e.pass(ctx, func() error {
		e.order.Lock()
		e.cut = true
		e.order.Unlock()
		if e.leading.Load() > 0 {
			e.stop()
		}
		st = c.state(e)
		return nil
	})
	return st, err
}

func (c *Cluster) promote(ctx context.Context, dc driver.Conn) (replica.NodeState, error) {
	e := dc.(*conn).e
	if err := e.lead(ctx, c.nextEpoch()); err != nil {
		return replica.NodeState{}, err
	}
	return c.state(e), nil
}

// follow undoes a cut when the promotion was called off; a new primary makes itself known by its handshake.
func (c *Cluster) follow(ctx context.Context, dc driver.Conn, primary replica.Node) error {
	e := dc.(*conn).e
	return e.pass(ctx, func() error {
		e.order.Lock()
		defer e.order.Unlock()
		if p := c.Node(primary.Name); p != nil {
			if pe := p.engine.Load(); pe.leading.Load() >= e.promised.Load() {
				e.cut = false
			}
		}
		return nil
	})
}
