package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// conn is a logical connection: what database/sql pools. It owns nothing while it is idle. During one use (from taking it out
// of the pool to IsValid, which database/sql calls whenever it puts a connection back) it holds the physical
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
	spills   int
	flight   flight
	flying   []*flight
	// pending is the session of a write whose rows were still open when it was sent; its position is captured at the end of the use.
	pending   *Session
	pendingOn *phys
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

// statement is one thing to run; what it is decides which method of the physical connection is called.
type statement struct {
	query string
	args  []driver.NamedValue
	kind  opKind
	rows  driver.Rows
	res   driver.Result
}

type opKind uint8

const (
	opQuery opKind = iota
	opExec
	opStmtQuery // through a prepared statement
	opStmtExec
	opPrepare
	opPing
)

func (s *statement) isExec() bool { return s.kind == opExec || s.kind == opStmtExec }

func (s *statement) on(ctx context.Context, p *phys) (err error) {
	switch s.kind {
	case opQuery:
		s.rows, err = p.query(ctx, s.query, s.args)
	case opExec:
		s.res, err = p.exec(ctx, s.query, s.args)
	case opPing:
		if pg, ok := p.conn.(driver.Pinger); ok {
			err = pg.Ping(ctx)
		}
	default:
		var st driver.Stmt
		if st, err = p.prepare(ctx, s.query); err != nil {
			return err
		}
		switch s.kind {
		case opStmtQuery:
			s.rows, err = p.stmtQuery(ctx, st, s.args)
		case opStmtExec:
			s.res, err = p.stmtExec(ctx, st, s.args)
		}
	}
	return err
}

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

// runPinned: no choice and no retry. The transaction or the session's owner sees every error.
func (n *conn) runPinned(ctx context.Context, s *statement, v Verdict) error {
	if v.Class == ClassSession {
		n.stateful = true
	}
	p := n.pin
	used := n.under(ctx, p.node)
	err := explain(ctx, used, p.node, s.on(used, p))
	if err == nil {
		return nil
	}
	switch kind := n.judge(p, err); {
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

// read runs on a replica if it can, and is repeated on another node as long as no row was delivered.
func (n *conn) read(ctx context.Context, s *statement, e *classEntry, r route) error {
	c := n.c
	sess := SessionOf(ctx)
	var avoid *node
	var deadline time.Time
	var t target
	usual := sess == nil && r == (route{})
	for attempt := 0; ; attempt++ {
		var err error
		if usual && attempt == 0 {
			t.node, t.role = c.pickAny(), RoleReplica
		}
		if attempt > 0 || t.node == nil {
			if t, err = c.pick(ctx, r, sess, avoid); err != nil {
				return err
			}
		}
		if t.spill {
			n.spills++
		}
		used := n.under(ctx, t.node)
		p, err := n.hold(used, t.node)
		if err == nil && t.wait {
			ok, e := n.waitFor(used, p, &t)
			if !ok && e == nil { // the primary has it
				c.n.tokenMisses.Add(1)
				if r.replica {
					return ErrNoReplica
				}
				r = route{primary: true}
				continue
			}
			err = e
		}
		if err == nil {
			err = s.on(used, p)
		}
		if err == nil {
			n.readDone(ctx, &t, sess, e)
			if t.role == RoleReplica && s.kind != opPrepare {
				c.maybeShadow(t.node, s)
			}
			return nil
		}
		err = explain(ctx, used, t.node, err)
		if ctx.Err() != nil {
			n.failed(p, err)
			return err
		}
		again := false
		switch kind := n.judge(p, err); kind {
		case KindRefused, KindLost:
			again = true
			avoid = t.node
			if t.role == RolePrimary { // wait for the next one
				again, err = n.otherPrimary(ctx, t.node, p, err, &deadline)
				avoid = nil
			}
			if again {
				c.n.retried.Add(1)
			}
		case KindReadOnly:
			if t.role == RoleReplica {
				again = true
				c.classes.put(&classEntry{query: s.query, verdict: Verdict{ClassWrite, "a replica refused it: " + err.Error()}, learned: true})
				r = route{primary: true}
				c.n.healed.Add(1)
			}
		case KindConflict:
			if t.role == RoleReplica {
				again, avoid = true, t.node
				c.n.retried.Add(1)
			}
		}
		if attempt >= 8 {
			again = false
		}
		if !again {
			return unbad(err)
		}
	}
}

func (n *conn) waitFor(ctx context.Context, p *phys, t *target) (bool, error) {
	n.c.n.tokenWaits.Add(1)
	began := time.Now()
	ok, err := n.c.dialect.Reached(ctx, p.conn, t.want, n.c.opts.WaitBudget)
	t.waited = time.Since(began)
	return ok, err
}

func (n *conn) readDone(ctx context.Context, t *target, sess *Session, e *classEntry) {
	c := n.c
	t.node.reads.Add(1)
	if t.role == RoleReplica {
		if sess != nil {
			sess.read(c.opts.Name, t.node.Name)
		}
	} else {
		c.n.readsAll.Add(1)
		if !t.spill {
			c.n.readsPrimary.Add(1)
		}
	}
	if h := c.opts.Hooks; h != nil && h.Routed != nil {
		h.Routed(ctx, Route{Node: t.node.Name, Role: t.role, Class: e.verdict.Class, Reason: t.reason, Waited: t.waited})
	}
}

// write runs on the primary. It is repeated only when nothing was executed: a connection was refused, or the node said it is
// no primary any more.
func (n *conn) write(ctx context.Context, s *statement, v Verdict, sess *Session) error {
	c := n.c
	var deadline time.Time
	for {
		nd, err := c.pickPrimary(ctx)
		if err != nil {
			return err
		}
		used := n.under(ctx, nd)
		p, err := n.hold(used, nd)
		if err == nil {
			if v.Class == ClassSession {
				n.pin, n.stateful = p, true
			}
			if sess != nil {
				sess.writing(c.opts.Name)
			}
			err = s.on(used, p)
		}
		if err == nil {
			nd.writes.Add(1)
			c.n.writes.Add(1)
			if h := c.opts.Hooks; h != nil && h.Routed != nil {
				h.Routed(ctx, Route{Node: nd.Name, Role: RolePrimary, Class: v.Class, Reason: v.Reason})
			}
			if p.gen != nd.gen.Load() { // the node was fenced meanwhile: a thawed primary acknowledges to nobody
				return fmt.Errorf("%w: %s is not the primary any more", ErrCommitUnknown, nd.Name)
			}
			if sess == nil || s.kind == opPrepare {
				return nil
			}
			if s.isExec() {
				n.capture(ctx, sess, p)
			} else {
				n.pending, n.pendingOn = sess, p
			}
			return nil
		}
		err = explain(ctx, used, nd, err)
		switch n.judge(p, err) {
		case KindRefused, KindReadOnly:
			var again bool
			n.pin = nil
			if again, err = n.otherPrimary(ctx, nd, p, err, &deadline); again {
				continue
			}
			return unbad(err)
		case KindLost:
			c.probeNow(nd)
			if s.kind == opPing || s.kind == opPrepare {
				return unbad(err)
			}
			return fmt.Errorf("%w: %w", ErrCommitUnknown, unbad(err))
		}
		if sess != nil && p != nil && !p.broken && s.isExec() {
			n.capture(ctx, sess, p) // nothing was written, but "unknown" must not stay
		}
		return err
	}
}

// otherPrimary decides whether a statement that was not executed may be tried again, and waits until that makes sense: at
// once on a new connection when only a pooled one was stale, else when the primary has been probed or replaced.
func (n *conn) otherPrimary(ctx context.Context, failed *node, p *phys, cause error, deadline *time.Time) (bool, error) {
	c := n.c
	if deadline.IsZero() {
		*deadline = time.Now().Add(max(c.opts.PrimaryWait, 0))
		if p != nil && errors.Is(cause, driver.ErrBadConn) {
			return true, nil
		}
	}
	left := time.Until(*deadline)
	if left <= 0 {
		return false, cause
	}
	began := time.Now()
	c.probeNow(failed)
	_, err := c.waitTopology(ctx, left, func(t *topology) bool {
		return t.primary != nil && (t.primary != failed || t.probed.After(began))
	})
	if err != nil {
		return false, err
	}
	return time.Now().Before(*deadline), cause
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
			n.c.refused(nd, ce.err)
		}
		return nil, err
	}
	if n.held == nil {
		n.held = n.buf[:0]
	}
	n.held = append(n.held, p)
	return p, nil
}

// judge says what an error means and marks the connection when it broke. p is nil when there was none.
func (n *conn) judge(p *phys, err error) ErrorKind {
	var ce *connectError
	if errors.As(err, &ce) {
		return KindRefused // whatever the reason, nothing was sent
	}
	if errors.Is(err, errEjected) {
		if p == nil {
			return KindRefused
		}
		p.broken = true
		return KindLost
	}
	kind := n.c.dialect.Kind(err)
	if p == nil {
		return kind
	}
	if kind == KindOther {
		if !p.valid() {
			kind = KindLost
		}
	}
	if kind == KindRefused || kind == KindLost || kind == KindReadOnly {
		p.broken = true
		if kind != KindReadOnly {
			p.node.errors.Add(1)
		}
	}
	return kind
}

func (n *conn) failed(p *phys, err error) {
	if p != nil {
		_ = n.judge(p, err)
	}
}

// capture notes the position that covers what the session has just written.
func (n *conn) capture(ctx context.Context, sess *Session, p *phys) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	pos, err := n.c.dialect.Capture(ctx, p.conn)
	if err != nil || pos.IsZero() {
		return // unknown: the session reads from the primary
	}
	if pos.System == "" {
		pos.System = n.c.topo.Load().system
	}
	sess.wrotePosition(n.c.opts.Name, pos, n.c.dialect)
}

// release ends a use: everything borrowed goes back.
func (n *conn) release() {
	if n.pending != nil {
		if !n.pendingOn.broken {
			n.capture(context.Background(), n.pending, n.pendingOn)
		}
		n.pending, n.pendingOn = nil, nil
	}
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
	for ; n.spills > 0; n.spills-- {
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

// unbad hides driver.ErrBadConn from database/sql, which would repeat what we decided not to repeat.
func unbad(err error) error {
	if errors.Is(err, driver.ErrBadConn) {
		return errors.New("replica: connection lost: " + err.Error())
	}
	return err
}

// Raw gives f the physical driver connection of conn, which stays pinned to it until conn is closed. Without a choice made before
// it is a connection to the primary. ErrForeignConn when conn is not of a Cluster.
func Raw(ctx context.Context, sqlConn *sql.Conn, f func(driverConn any) error) error {
	return sqlConn.Raw(func(dc any) error {
		n, ok := dc.(*conn)
		if !ok {
			return ErrForeignConn
		}
		if n.pin == nil {
			nd, err := n.c.pickPrimary(ctx)
			if err != nil {
				return err
			}
			if n.pin, err = n.hold(ctx, nd); err != nil {
				return err
			}
		}
		return f(n.pin.conn)
	})
}
