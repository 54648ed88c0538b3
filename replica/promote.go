package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/health"
)

func promoter(d Dialect) (Promoter, bool) {
	p, ok := d.(Promoter)
	return p, ok
}

// afterChange starts the automatic promotion when the primary is lost. Called with c.mu held.
func (c *Cluster) afterChange(time.Time) {
	p := c.opts.Promotion
	switch {
	case p == nil || c.promoting || c.closed:
	case !c.primaryLost.IsZero() && c.lastPrimary != nil:
		c.promoting = true
		c.wg.Go(c.failover)
	case len(c.strays()) > 0:
		c.promoting = true
		c.wg.Go(c.repoint)
	}
}

// failover promotes until there is a primary again.
func (c *Cluster) failover() {
	policy := backoff.Policy{Base: 100 * time.Millisecond, Max: 2 * time.Second}
	lost := func() (since time.Time, yes bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.primaryLost.IsZero() || c.ctx.Err() != nil {
			c.promoting = false
			return time.Time{}, false
		}
		return c.primaryLost, true
	}
	for attempt := 0; ; attempt++ {
		since, yes := lost()
		if !yes {
			return
		}
		if wait := c.opts.Promotion.After - time.Since(since); wait > 0 {
			_ = backoff.Sleep(c.ctx, wait)
			continue // it may have been back meanwhile
		}
		if _, err := c.promote(c.ctx, "", true); err == nil {
			continue // lost() sees the new primary and ends
		}
		_ = backoff.Sleep(c.ctx, policy.Delay(attempt))
	}
}

// Promote makes the most advanced standby the primary, as the automatic promotion would, on the word of an operator. to
// may name the standby; "" chooses. It needs Options.Promotion. The old primary, if it is up, is not stopped: cutting
// replication keeps it from acknowledging synchronous commits, and this cluster does not write to it any more.
func (c *Cluster) Promote(ctx context.Context, to string) (PromotionReport, error) {
	if c.opts.Promotion == nil {
		return PromotionReport{}, fmt.Errorf("%w: Options.Promotion is not set", ErrPromotion)
	}
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return PromotionReport{}, ErrClosed
	case c.promoting:
		c.mu.Unlock()
		return PromotionReport{}, fmt.Errorf("%w: one is in progress", ErrPromotion)
	}
	c.promoting = true
	c.mu.Unlock()
	defer c.promotingEnds()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	return c.promote(ctx, to, false)
}

// promotingEnds looks whether there is something to do that waited for the end.
func (c *Cluster) promotingEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.promoting = false
	c.afterChange(time.Now())
}

// standby is a candidate of one promotion.
type standby struct {
	m     *member
	conn  driver.Conn
	state NodeState
	err   error
}

func (c *Cluster) promote(ctx context.Context, to string, automatic bool) (rep PromotionReport, err error) {
	opt := c.opts.Promotion
	timeout := opt.Timeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	defer func() {
		if h := c.opts.Hooks; h != nil && h.Promoted != nil {
			h.Promoted(rep, err)
		}
	}()
	ctx, epoch, release, err := c.lease(ctx)
	if err != nil {
		return rep, err
	}
	defer release()
	rep.Epoch = epoch

	c.mu.Lock()
	if automatic && c.primaryLost.IsZero() { // while we waited for the lease
		c.mu.Unlock()
		return rep, errPrimaryBack
	}
	old := c.lastPrimary
	last, synchronous := c.lastPosition, c.lastSynchronous
	var stands []*standby
	configured := len(c.members)
	if m := c.memberOf(old); m != nil || old == nil {
		configured-- // else it was removed, and all of them are standbys
	}
	for _, m := range c.members {
		// one that stepped down by itself is a candidate like the others
		if m.node == old && !(m.up() && m.state.Role == RoleReplica) {
			if !m.failing.IsZero() {
				rep.Detected = began.Sub(m.failing)
			}
			continue
		}
		if m.fenced == "" && (!m.probed || m.state.Role != RolePrimary) {
			stands = append(stands, &standby{m: m})
		}
	}
	c.mu.Unlock()
	if old != nil {
		rep.From = old.Name
	}
	defer func() {
		for _, s := range stands {
			if s.conn != nil {
				_ = s.conn.Close()
			}
		}
	}()

	if automatic { // an operator knows what he sees
		if err := c.alive(ctx, stands, rep.Detected, rep.From); err != nil {
			return rep, err
		}
	}

	// 1. Cut replication on every standby that answers. From here on the old primary, thawed or not, can acknowledge
	// nothing that needs a replica, and the positions are final.
	c.mu.Lock()
	for _, s := range stands {
		s.m.astray = true
	}
	c.mu.Unlock()
	c.cutAll(ctx, stands)
	for _, s := range stands {
		if s.err == nil && s.state.Role == RolePrimary { // by somebody else, and we have not seen it yet
			c.probeNow(s.m.node)
			return rep, fmt.Errorf("%w: %s is a primary already", ErrPromotion, s.m.Name)
		}
	}
	best, answered, err := c.elect(stands, to, configured, last, synchronous, &rep)
	if err == nil && opt.Before != nil {
		c.mu.Lock()
		st := c.statusOf(best.m)
		c.mu.Unlock()
		st.Position, st.Received = best.state.Replayed, best.state.Received
		if e := opt.Before(ctx, st, epoch); e != nil {
			err = fmt.Errorf("%w: vetoed by Promotion.Before: %w", ErrPromotion, e)
		}
	}
	if err == nil {
		err = c.stillRight(ctx, best, automatic)
	}
	if err != nil {
		c.followAll(ctx, answered, nil, old, &rep) // as it was before
		return rep, err
	}

	// 2. Promote, and route to it at once. When the answer is lost, the node knows whether it is the primary now.
	p, _ := promoter(c.dialect)
	c.mu.Lock()
	c.chosen = best.m
	c.mu.Unlock()
	state, err := p.Promote(ctx, best.conn)
	if err != nil {
		var there bool
		if state, there = c.promotedAfterAll(best.m); !there {
			return rep, fmt.Errorf("%w: promoting %s: %w", ErrPromotion, best.m.Name, err)
		}
	}
	rep.To, rep.Took, rep.At = best.m.Name, time.Since(began), time.Now()
	c.mu.Lock()
	m := best.m
	before := c.statusOf(m)
	if m.state.Role != RolePrimary { // unless a probe was faster: then there are writes on it already
		m.gen.Add(1)
	}
	m.state, m.lastErr, m.probed, m.began = state, "", true, time.Now()
	m.machine.Force(health.Up, m.began)
	if state.Replayed.Timeline == 0 { // a dialect without timelines: remember who was promoted last
		m.overlay = c.timeline + 1
	}
	c.forked = best.state.Received
	if c.forked.Timeline == 0 { // a standby that is cut off does not tell
		c.forked.Timeline = last.Timeline
	}
	m.astray, c.chosen = false, nil
	sofar := rep
	c.lastPromotion = &sofar // whoever sees the new primary sees why
	c.recompute(m.began)
	after := c.statusOf(m)
	c.mu.Unlock()
	c.nodeChanged(m.node, before, after)
	c.n.promotions.Add(1)

	// 3. The others follow it.
	c.followAll(ctx, answered, best, m.node, &rep)
	c.mu.Lock()
	stored := rep
	c.lastPromotion = &stored
	if c.opts.Replace != nil && !c.closed { // its place among the replicas is empty
		c.wg.Go(func() { c.opts.Replace(c.ctx, before) })
	}
	c.mu.Unlock()
	return rep, nil
}

var errPrimaryBack = fmt.Errorf("%w: the primary is back", ErrPromotion)

// lease takes the lease, and returns a context that ends before it can be somebody else's.
func (c *Cluster) lease(ctx context.Context) (held context.Context, epoch uint64, release func(), err error) {
	l, key, ttl := c.opts.Promotion.Lease, "tierkit/replica/"+c.opts.Name, c.opts.Promotion.LeaseTTL
	if ttl <= 0 {
		ttl = 30 * time.Second
	}
	until := time.Now().Add(ttl)
	if epoch, err = l.Acquire(ctx, key, ttl); err != nil {
		return ctx, 0, nil, fmt.Errorf("%w: lease: %w", ErrPromotion, err)
	}
	held, cancel := context.WithDeadline(ctx, until)
	return held, epoch, func() {
		cancel()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = l.Release(ctx, key, epoch)
	}, nil
}

// stillRight: nothing has happened since the candidate was chosen that would make a second primary of it.
func (c *Cluster) stillRight(ctx context.Context, best *standby, automatic bool) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: the time, or the lease, ended before %s was promoted: %w", ErrPromotion, best.m.Name,
			ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case automatic && c.primaryLost.IsZero():
		return errPrimaryBack
	case c.memberOf(best.m.node) == nil:
		return fmt.Errorf("%w: %s was removed", ErrPromotion, best.m.Name)
	case best.m.draining:
		return fmt.Errorf("%w: %s is draining", ErrPromotion, best.m.Name)
	}
	return nil
}

// promotedAfterAll asks a node whether it became the primary although Promote failed.
func (c *Cluster) promotedAfterAll(m *member) (st NodeState, yes bool) {
	ctx, cancel := context.WithTimeout(c.ctx, c.patience())
	defer cancel()
	yes, _ = poll(ctx, c.patience(), func() (bool, error) {
		conn, err := m.admin().Connect(ctx)
		if err != nil {
			return false, nil
		}
		defer conn.Close()
		st, err = c.dialect.Probe(ctx, conn)
		return err == nil && st.Role == RolePrimary, nil
	})
	return st, yes
}

// patience is how long a standby that does not answer may hold up the others.
func (c *Cluster) patience() time.Duration { return max(4*c.opts.ProbeTimeout, 2*time.Second) }

func (m *member) admin() driver.Connector {
	if m.Admin != nil {
		return m.Admin
	}
	return m.Connector
}
