package replica

import (
	"context"
	"time"
)

// read runs on a replica if it can, and is repeated on another node as long as no row was delivered.
func (n *conn) read(ctx context.Context, s *statement, e *classEntry, r route) error {
	c := n.c
	sess := SessionOf(ctx)
	var avoid *node
	var deadline time.Time
	var t target
	missed := false
	usual := sess == nil && r == (route{})
	for attempt := 0; ; attempt++ {
		var err error
		if usual && attempt == 0 {
			t.node, t.role = c.pickAny(), RoleReplica
		}
		if attempt > 0 || t.node == nil {
			if t, err = c.pick(ctx, r, sess, avoid, n.placed); err != nil {
				return err
			}
		}
		n.placed = n.placed || t.spill
		used := n.under(ctx, t.node)
		p, err := n.hold(used, t.node)
		if err == nil && t.wait {
			ok, e := n.waitFor(used, p, &t)
			if !ok && e == nil { // the primary has it
				c.n.tokenMisses.Add(1)
				if r.replica {
					return ErrNoReplica
				}
				r, missed = route{primary: true}, true
				continue
			}
			err = e
		}
		if err == nil {
			err = s.on(used, p)
		}
		if err == nil {
			n.readDone(ctx, &t, sess, e)
			// with a position the next read need not go there too
			if sess != nil && (missed || t.missed) && s.kind != opPrepare {
				n.pending = append(n.pending, pending{sess, 0, p})
			}
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
			if t.role == RoleReplica && !r.replica {
				again = true
				c.classes.put(&classEntry{query: s.query,
					verdict: Verdict{ClassWrite, "a replica refused it: " + err.Error()}, learned: true})
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
	if sess != nil {
		sess.read(c.opts.Name, t.node.Name)
	}
	if t.role == RolePrimary {
		c.n.readsAll.Add(1)
		if !t.spill {
			c.n.readsPrimary.Add(1)
		}
	}
	if h := c.opts.Hooks; h != nil && h.Routed != nil {
		h.Routed(ctx, Route{Node: t.node.Name, Role: t.role, Class: e.verdict.Class, Reason: t.reason,
			Waited: t.waited})
	}
}
