package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
)

// group is what shares one shipment: transactions that have run, each in a savepoint of one SQLite transaction, and
// wait for their commit. Fields but wake belong to the holder of the engine's token.
type group struct {
	open    bool // the SQLite transaction is begun
	pending []*commit
	wake    chan struct{} // for the flusher; holds one

	mu    sync.Mutex
	acked chan struct{} // closed on the next acknowledgement
}

type commit struct {
	stmts []statement
	done  chan error // holds one
}

func (g *group) ackedSome() {
	g.mu.Lock()
	if g.acked != nil {
		close(g.acked)
		g.acked = nil
	}
	g.mu.Unlock()
}

func (g *group) nextAck() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.acked == nil {
		g.acked = make(chan struct{})
	}
	return g.acked
}

// begin starts a client's transaction. The caller then holds the token until commit or rollback.
func (e *engine) begin(ctx context.Context) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	err := e.pass(ctx, func() error {
		if e.leading.Load() == 0 || e.stopped.Load() {
			return ErrNotPrimary
		}
		bg := context.Background()
		if !e.group.open {
			if _, err := run(bg, e.conn, "begin immediate"); err != nil {
				return err
			}
			e.group.open = true
		}
		_, err := run(bg, e.conn, "savepoint client")
		return err
	})
	if err != nil {
		e.give()
	}
	return err
}

// rollback undoes the client's statements.
func (e *engine) rollback() {
	bg := context.Background()
	if e.ctx.Err() == nil {
		_, _ = run(bg, e.conn, "rollback to client")
		_, _ = run(bg, e.conn, "release client")
	}
	e.wakeFlusher()
	e.give()
}

// commit hands the transaction to the group and waits for its fate. The token is given on at once, so that the next
// client runs while this one waits; the flusher queues behind those who are waiting already, which is what makes the
// groups.
func (e *engine) commit(ctx context.Context, stmts []statement) error {
	if _, err := run(context.Background(), e.conn, "release client"); err != nil {
		e.rollback()
		return err
	}
	if len(stmts) == 0 {
		e.wakeFlusher()
		e.give()
		return nil
	}
	c := &commit{stmts: stmts, done: make(chan error, 1)}
	e.group.pending = append(e.group.pending, c)
	e.wakeFlusher()
	e.give()
	var err error
	select {
	case err = <-c.done:
	case <-ctx.Done(): // the caller gives up on a frozen node
		err = ctx.Err()
	case <-e.ctx.Done():
		select { // both may have happened
		case err = <-c.done:
		default:
			err = context.Cause(e.ctx)
		}
	}
	if err == nil { // the acknowledgement is an effect of the node too
		err = e.n.cfg.Gate.Pass(ctx, func() error { return nil })
	}
	if err != nil && !errors.Is(err, ErrNotPrimary) {
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	}
	return err
}

func (e *engine) wakeFlusher() {
	select {
	case e.group.wake <- struct{}{}:
	default:
	}
}

func (e *engine) flushLoop() {
	for {
		select {
		case <-e.group.wake:
		case <-e.ctx.Done():
			return
		}
		if e.take(e.ctx) != nil {
			return
		}
		e.flush()
		e.give()
	}
}

// flush ships, commits and acknowledges the pending group. The caller holds the token.
func (e *engine) flush() {
	g := &e.group
	if !g.open {
		return
	}
	bg := context.Background()
	pending := g.pending
	g.pending, g.open = nil, false
	if len(pending) == 0 {
		_, _ = run(bg, e.conn, "rollback")
		return
	}
	finish := func(err error) {
		if err != nil {
			_, _ = run(bg, e.conn, "rollback")
		}
		for _, c := range pending {
			c.done <- err
		}
	}
	epoch := e.leading.Load()
	var last position
	err := e.pass(e.ctx, func() error {
		e.order.Lock()
		defer e.order.Unlock()
		if epoch == 0 || e.stopped.Load() || e.promised.Load() != epoch {
			return ErrNotPrimary // nothing was logged: these transactions never happened
		}
		recs := make([]record, len(pending))
		seq := e.log.last().seq
		for i, c := range pending {
			recs[i] = record{epoch: epoch, seq: seq + uint64(i) + 1, stmts: c.stmts}
		}
		last = position{epoch, recs[len(recs)-1].seq}
		return e.log.append(recs, len(e.peers) == 0)
	})
	if err != nil {
		finish(err)
		return
	}
	if err := e.waitAck(last.seq); err != nil {
		e.stop()
		finish(err)
		return
	}
	err = e.pass(e.ctx, func() error {
		if err := writeState(bg, e.conn, last); err != nil {
			return err
		}
		_, err := run(bg, e.conn, "commit")
		return err
	})
	if err != nil {
		e.stop()
		finish(err)
		return
	}
	e.setApplied(last)
	finish(nil)
}

// abandon ends a group that was not shipped, because the node changes its role: its transactions never happened. The
// caller holds the token.
func (e *engine) abandon() {
	g := &e.group
	if !g.open {
		return
	}
	_, _ = run(context.Background(), e.conn, "rollback")
	for _, c := range g.pending {
		c.done <- ErrNotPrimary
	}
	g.pending, g.open = nil, false
}

// waitAck waits until one replica has the record on its disk.
func (e *engine) waitAck(seq uint64) error {
	if len(e.peers) == 0 {
		return nil
	}
	for _, p := range e.peers {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	timeout := time.NewTimer(e.n.c.opts.CommitTimeout)
	defer timeout.Stop()
	for {
		acked := e.group.nextAck()
		for _, p := range e.peers {
			if p.acked.Load() >= seq {
				return nil
			}
		}
		select {
		case <-acked:
		case <-timeout.C:
			return fmt.Errorf("no replica confirmed within %v", e.n.c.opts.CommitTimeout)
		case <-e.ctx.Done():
			return gate.ErrDead
		}
	}
}
