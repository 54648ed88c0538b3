package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"runtime"
	"time"
)

// stmt is a logical prepared statement: each physical connection prepares it when it first runs there, so it survives
// failover and follows the routing of every execution.
type stmt struct {
	n     *conn
	query string
}

func (n *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := n.run(ctx, &statement{query: query, kind: opPrepare}); err != nil {
		return nil, err
	}
	return &stmt{n: n, query: query}, nil
}

func (n *conn) Prepare(query string) (driver.Stmt, error) {
	return n.PrepareContext(context.Background(), query)
}

// NumInput is unknown: the physical statement checks.
func (s *stmt) NumInput() int { return -1 }

// Close leaves the physical statements for the next one who prepares the same text.
func (s *stmt) Close() error { return nil }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	st := statement{query: s.query, args: args, kind: opStmtExec}
	err := s.n.run(ctx, &st)
	return st.res, err
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	st := statement{query: s.query, args: args, kind: opStmtQuery}
	err := s.n.run(ctx, &st)
	return st.rows, err
}

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (s *stmt) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }

// tx is a transaction on one physical connection.
type tx struct {
	n     *conn
	p     *phys
	inner driver.Tx
	ctx   context.Context
	sess  *Session
	write bool // may have written
	unpin bool
}

func (n *conn) Begin() (driver.Tx, error) {
	return n.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx begins on the primary, or on one replica when the transaction is read-only. Beginning is repeated elsewhere
// when a connection turns out to be dead, since nothing has happened in it yet.
func (n *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	c := n.c
	if n.pin != nil {
		inner, err := n.pin.begin(ctx, o)
		if err != nil {
			n.failed(n.pin, err)
			return nil, err
		}
		n.inTx, n.txWrites = true, !o.ReadOnly
		return &tx{n: n, p: n.pin, inner: inner, sess: SessionOf(ctx), ctx: ctx, write: !o.ReadOnly}, nil
	}
	sess := SessionOf(ctx)
	r := routeOf(ctx)
	var avoid *node
	var deadline time.Time
	for attempt := 0; ; attempt++ {
		var t target
		var err error
		if o.ReadOnly {
			t, err = c.pick(ctx, r, sess, avoid, n.placed)
		} else {
			t.role = RolePrimary
			t.node, t.gen, err = c.pickPrimary(ctx)
		}
		if err != nil {
			return nil, err
		}
		n.placed = n.placed || t.spill
		used := n.under(ctx, t.node)
		p, err := n.hold(used, t.node)
		if err == nil && t.wait {
			ok, e := n.waitFor(used, p, &t)
			if !ok && e == nil {
				c.n.tokenMisses.Add(1)
				if r.replica {
					return nil, ErrNoReplica
				}
				r = route{primary: true}
				continue
			}
			err = e
		}
		if err == nil && !o.ReadOnly && !stillPrimary(p, t.gen) {
			runtime.Gosched() // the next topology is being made
			continue
		}
		var inner driver.Tx
		if err == nil {
			inner, err = p.begin(used, o)
		}
		if err == nil {
			n.pin, n.inTx, n.txWrites = p, true, !o.ReadOnly
			x := &tx{n: n, p: p, inner: inner, ctx: used, sess: sess, unpin: true}
			if o.ReadOnly {
				n.readDone(ctx, &t, sess, &classEntry{
					verdict: Verdict{Class: ClassRead, Reason: "read-only transaction"}})
			} else {
				x.write = true
				c.n.writes.Add(1)
				t.node.writes.Add(1)
				if h := c.opts.Hooks; h != nil && h.Routed != nil {
					h.Routed(ctx, Route{Node: t.node.Name, Role: RolePrimary, Reason: "transaction"})
				}
			}
			return x, nil
		}
		err = explain(ctx, used, t.node, err)
		kind := n.judge(p, err)
		again := (kind == KindRefused || kind == KindLost || kind == KindReadOnly) && attempt < 8 && ctx.Err() == nil
		if again && t.role == RolePrimary {
			again, err = n.otherPrimary(ctx, t.node, p, err, &deadline)
		} else {
			avoid = t.node
		}
		if !again {
			return nil, unbad(err)
		}
		c.n.retried.Add(1)
	}
}

// Commit fails with ErrCommitUnknown when the connection broke before the answer, or when the node lost its role
// meanwhile: a primary that was frozen, replaced and thawed may say yes, and its yes is worth nothing.
func (t *tx) Commit() error {
	if t.write && t.p.gen != t.p.node.gen.Load() { // known before it is sent: nothing has happened
		_ = t.Rollback()
		t.p.broken = true
		return &txLost{fmt.Errorf("%s is not the primary any more", t.p.node.Name)}
	}
	var number uint64
	if t.write && t.sess != nil {
		number = t.sess.writing(t.n.c.opts.Name)
	}
	err := t.inner.Commit()
	t.end()
	if !t.write {
		t.saw()
		if err != nil {
			t.n.failed(t.p, err)
		}
		return err
	}
	if err != nil {
		if kind := t.n.judge(t.p, err); kind == KindLost || kind == KindRefused || t.ctx.Err() != nil {
			t.p.broken = true
			t.n.c.probeNow(t.p.node)
			t.n.lostWrite(t.sess, number)
			return fmt.Errorf("%w: %w", ErrCommitUnknown, unbad(err))
		} else if kind == KindReadOnly { // refused as a whole
			t.p.broken = true
			t.n.c.probeNow(t.p.node)
			t.n.wroteNothing(t.sess, number)
			return &txLost{err}
		}
	} else if t.p.gen != t.p.node.gen.Load() {
		t.n.lostWrite(t.sess, number)
		return fmt.Errorf("%w: %s is not the primary any more", ErrCommitUnknown, t.p.node.Name)
	}
	if number > 0 && !t.p.broken {
		t.n.capture(t.ctx, t.sess, number, t.p)
	} else {
		t.n.lostWrite(t.sess, number)
	}
	return err
}

func (t *tx) Rollback() error {
	err := t.inner.Rollback()
	t.end()
	t.saw()
	if err != nil {
		t.n.failed(t.p, err)
	}
	return err
}

// saw: the session has seen what there was until now.
func (t *tx) saw() {
	if t.sess != nil {
		t.sess.read(t.n.c.opts.Name, t.p.node.Name)
	}
}

func (t *tx) end() {
	t.n.inTx = false
	if t.unpin && !t.n.stateful {
		t.n.pin = nil
	}
}
