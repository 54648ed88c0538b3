package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// conn is a logical connection: what database/sql pools. It owns nothing while it is idle. During one use (from taking
// it out of the pool to IsValid, which database/sql calls whenever it puts a connection back) it holds the physical
// connections its statements ran on, because rows may still be read from them.
type conn struct {
	c    *Cluster
	held []*phys
	buf  [2]*phys
	// pin: all statements go here, because it holds a transaction or session state, or was handed out by Raw.
	pin *phys
	// stateful: the pinned connection's session was changed; it is closed at the end of the use.
	stateful bool
	// inTx: a transaction is open; txWrites: it was not begun as a read-only one.
	inTx     bool
	txWrites bool
	placed   bool // holds a place under SpillLimit
	flying   []*flight
	// pending are the sessions of writes whose rows were still open when they were sent; their position is captured at
	// the end of the use.
	pending []pending
}

type pending struct {
	sess   *Session
	number uint64 // of the write; 0: a read
	on     *phys
}

var (
	_ driver.Conn               = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
)

// CheckNamedValue accepts every argument as it is; the physical connection's checker sees it once that is chosen.
func (n *conn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (n *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s := statement{query: query, args: args, kind: opQuery}
	err := n.run(ctx, &s)
	return s.rows, err
}

func (n *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s := statement{query: query, args: args, kind: opExec}
	err := n.run(ctx, &s)
	return s.res, err
}

// Ping asks the primary.
func (n *conn) Ping(ctx context.Context) error { return n.run(ctx, &statement{kind: opPing}) }

func (n *conn) run(ctx context.Context, s *statement) error {
	if n.c.over.Load() {
		return ErrClosed
	}
	if s.kind == opPing {
		return n.write(ctx, s, Verdict{ClassWrite, "ping"}, nil)
	}
	e := n.c.class(s.query)
	if n.pin != nil {
		return n.runPinned(ctx, s, e.verdict)
	}
	r := routeOf(ctx)
	if !s.isExec() && (e.verdict.Class == ClassRead || r.replica && e.verdict.Class == ClassWrite) {
		return n.read(ctx, s, e, r)
	}
	return n.write(ctx, s, e.verdict, SessionOf(ctx))
}

// runPinned: no choice and no retry. The transaction or the session's owner sees every error. Outside a transaction a
// write commits by itself, and counts like one that is not pinned.
func (n *conn) runPinned(ctx context.Context, s *statement, v Verdict) error {
	p := n.pin
	var sess *Session
	var number uint64
	commits := !n.inTx && s.kind != opPrepare && (s.isExec() || v.Class != ClassRead)
	if commits {
		if p.gen != p.node.gen.Load() {
			p.broken = true
			return fmt.Errorf("%w: %s, which holds the session, is not the primary any more", ErrNoPrimary, p.node.Name)
		}
		if sess = SessionOf(ctx); sess != nil {
			number = sess.writing(n.c.opts.Name)
		}
	}
	if v.Class == ClassSession {
		n.stateful = true
	}
	used := n.under(ctx, p.node)
	err := explain(ctx, used, p.node, s.on(used, p))
	n.done(s, used)
	if err == nil {
		if commits {
			return n.written(ctx, s, sess, number, p)
		}
		return nil
	}
	switch kind := n.judge(p, err); {
	case commits && kind == KindLost:
		n.c.probeNow(p.node)
		n.lostWrite(sess, number)
		return fmt.Errorf("%w: %w", ErrCommitUnknown, unbad(err))
	case commits:
		n.failedWrite(ctx, s, sess, number, p)
	case !n.inTx || ctx.Err() != nil:
	case kind == KindRefused, kind == KindLost:
		n.c.probeNow(p.node)
		return &txLost{err}
	case kind == KindReadOnly && p.node != n.c.topo.Load().primary, kind == KindReadOnly && n.txWrites:
		n.c.probeNow(p.node)
		return &txLost{err}
	}
	return err
}

// hold returns the connection to the node that this use has, or borrows one.
func (n *conn) hold(ctx context.Context, nd *node) (*phys, error) {
	for _, p := range n.held {
		if p.node == nd && !p.broken && p.gen == nd.gen.Load() {
			return p, nil
		}
	}
	p, err := nd.borrow(ctx, &n.c.limits)
	if err != nil {
		var ce *connectError
		if errors.As(err, &ce) {
			n.c.refused(nd, ce)
		}
		return nil, err
	}
	if n.held == nil {
		n.held = n.buf[:0]
	}
	n.held = append(n.held, p)
	return p, nil
}

// release ends a use: everything borrowed goes back.
func (n *conn) release() {
	for i, p := range n.pending {
		if p.on.broken {
			n.lostWrite(p.sess, p.number)
		} else {
			n.capture(context.Background(), p.sess, p.number, p.on)
		}
		n.pending[i] = pending{}
	}
	n.pending = n.pending[:0]
	n.land()
	if n.stateful && n.pin != nil {
		n.pin.broken = true // nobody else may inherit the session's state
	}
	n.pin, n.stateful = nil, false
	for i, p := range n.held {
		p.node.giveBack(p, &n.c.limits)
		n.held[i] = nil
	}
	n.held = n.held[:0]
	if n.placed {
		n.placed = false
		n.c.spill.leave()
	}
}

// IsValid is where database/sql puts the connection back into its pool: the use ends.
func (n *conn) IsValid() bool {
	n.release()
	return !n.c.over.Load()
}

// ResetSession begins the next use; the physical connections reset theirs when they are borrowed.
func (n *conn) ResetSession(context.Context) error { return nil }

func (n *conn) Close() error {
	n.release()
	return nil
}
