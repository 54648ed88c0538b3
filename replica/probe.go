package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"
)

// probeLoop asks one node for its state until its context ends. Each node has a loop and a connection of its own, so
// that one frozen host delays nobody's detection.
func (c *Cluster) probeLoop(ctx context.Context, m *member) {
	defer close(m.done)
	var conn driver.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for {
		began := time.Now()
		st, err := c.probeOnce(ctx, m.node, &conn)
		if ctx.Err() != nil {
			return
		}
		c.observe(m, st, err, began)
		wait := c.opts.ProbeInterval - time.Since(began)
		wait += time.Duration((rand.Float64() - 0.5) * 0.1 * float64(c.opts.ProbeInterval))
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-timer.C:
		case <-c.kick(m.node): // somebody needs to know now
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// probeOnce bounds a probe by the timeout even when the driver does not: what hangs is left behind and closed when it
// returns.
func (c *Cluster) probeOnce(parent context.Context, n *node, conn *driver.Conn) (NodeState, error) {
	ctx, cancel := context.WithTimeout(parent, c.opts.ProbeTimeout)
	defer cancel()
	type result struct {
		st   NodeState
		conn driver.Conn
		err  error
	}
	done := make(chan result, 1)
	have := *conn
	*conn = nil
	c.wg.Go(func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = errors.New("replica: probe panicked")
			}
			done <- r
		}()
		r.conn = have
		if r.conn == nil {
			if r.conn, r.err = n.Connector.Connect(ctx); r.err != nil {
				r.conn = nil
				return
			}
		}
		if r.st, r.err = c.dialect.Probe(ctx, r.conn); r.err != nil {
			_ = r.conn.Close()
			r.conn = nil
		}
	})
	select {
	case r := <-done:
		*conn = r.conn
		if r.err == nil && r.st.Role == RoleUnknown { // a dialect without roles
			r.st.Role = n.Role
		}
		return r.st, r.err
	case <-ctx.Done():
		c.wg.Go(func() {
			if r := <-done; r.conn != nil {
				_ = r.conn.Close()
			}
		})
		return NodeState{}, errProbeTimeout
	}
}
