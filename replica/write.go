package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// write runs on the primary. It is repeated only when nothing was executed: a connection was refused, or the node said
// it is no primary any more.
func (n *conn) write(ctx context.Context, s *statement, v Verdict, sess *Session) error {
	c := n.c
	var deadline time.Time
	var number uint64
	for {
		nd, gen, err := c.pickPrimary(ctx)
		if err != nil {
			n.wroteNothing(sess, number)
			return err
		}
		used := n.under(ctx, nd)
		p, err := n.hold(used, nd)
		if err == nil && !stillPrimary(p, gen) {
			runtime.Gosched() // the next topology is being made
			continue
		}
		if err == nil {
			if v.Class == ClassSession {
				n.pin, n.stateful = p, true
			}
			if sess != nil && number == 0 {
				number = sess.writing(c.opts.Name)
			}
			err = explain(ctx, used, nd, s.on(used, p))
			n.done(s, used)
		} else {
			err = explain(ctx, used, nd, err)
		}
		if err == nil {
			nd.writes.Add(1)
			c.n.writes.Add(1)
			if h := c.opts.Hooks; h != nil && h.Routed != nil {
				h.Routed(ctx, Route{Node: nd.Name, Role: RolePrimary, Class: v.Class, Reason: v.Reason})
			}
			return n.written(ctx, s, sess, number, p)
		}
		switch n.judge(p, err) {
		case KindRefused, KindReadOnly:
			var again bool
			n.pin = nil
			if again, err = n.otherPrimary(ctx, nd, p, err, &deadline); again {
				continue
			}
			n.wroteNothing(sess, number)
			return unbad(err)
		case KindLost:
			c.probeNow(nd)
			n.lostWrite(sess, number)
			if s.kind == opPing || s.kind == opPrepare {
				return unbad(err)
			}
			return fmt.Errorf("%w: %w", ErrCommitUnknown, unbad(err))
		}
		n.failedWrite(ctx, s, sess, number, p)
		return err
	}
}

// written ends a write that was acknowledged.
func (n *conn) written(ctx context.Context, s *statement, sess *Session, number uint64, p *phys) error {
	if p.gen != p.node.gen.Load() { // the node was fenced meanwhile: a thawed primary acknowledges to nobody
		n.lostWrite(sess, number)
		return fmt.Errorf("%w: %s is not the primary any more", ErrCommitUnknown, p.node.Name)
	}
	switch {
	case sess == nil:
	case s.kind == opPrepare:
		n.wroteNothing(sess, number)
	case s.isExec():
		n.capture(ctx, sess, number, p)
	default:
		n.pending = append(n.pending, pending{sess, number, p})
	}
	return nil
}

// failedWrite: the statement itself failed, and wrote nothing or, with several of them in one text, something.
func (n *conn) failedWrite(ctx context.Context, s *statement, sess *Session, number uint64, p *phys) {
	if number > 0 && p != nil && !p.broken && s.isExec() {
		n.capture(ctx, sess, number, p)
		return
	}
	n.lostWrite(sess, number)
}

// wroteNothing and lostWrite end a write that was begun with a session: its number is not 0.
func (n *conn) wroteNothing(sess *Session, number uint64) {
	if number > 0 {
		sess.wroteNothing(n.c.opts.Name)
	}
}

func (n *conn) lostWrite(sess *Session, number uint64) {
	if number > 0 {
		sess.lostWrite(n.c.opts.Name)
	}
}

// otherPrimary decides whether a statement that was not executed may be tried again, and waits until that makes sense:
// at once on a new connection when only a pooled one was stale, else when the primary has been probed or replaced.
func (n *conn) otherPrimary(ctx context.Context, failed *node, p *phys, cause error, deadline *time.Time) (bool,
	error) {
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

// capture notes the position that covers what the session has just written, or read if number is 0.
func (n *conn) capture(ctx context.Context, sess *Session, number uint64, p *phys) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	pos, err := n.c.dialect.Capture(ctx, p.conn)
	if err != nil || pos.IsZero() {
		n.lostWrite(sess, number) // the session reads from the primary
		return
	}
	if pos.System == "" {
		pos.System = n.c.topo.Load().system
	}
	if number == 0 {
		sess.sawPosition(n.c.opts.Name, pos, n.c.dialect)
		return
	}
	sess.wrotePosition(n.c.opts.Name, number, pos, n.c.dialect)
}
