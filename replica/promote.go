package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	if p == nil || c.promoting || c.closed || c.primaryLost.IsZero() || c.lastPrimary == nil {
		return
	}
	c.promoting = true
	c.wg.Go(c.failover)
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
			if backoff.Sleep(c.ctx, wait) != nil {
				continue
			}
			if _, yes := lost(); !yes {
				return
			}
		}
		if _, err := c.promote(c.ctx, "", true); err == nil {
			continue // lost() sees the new primary and ends
		}
		_ = backoff.Sleep(c.ctx, policy.Delay(attempt))
	}
}

// Promote makes the most advanced standby the primary, as the automatic promotion would, on the word of an operator.
// to may name the standby; "" chooses. It needs Options.Promotion. The old primary, if it is up, is not stopped: cutting replication
// keeps it from acknowledging synchronous commits, and this cluster does not write to it any more.
func (c *Cluster) Promote(ctx context.Context, to string) (PromotionReport, error) {
	if c.opts.Promotion == nil {
		return PromotionReport{}, fmt.Errorf("%w: Options.Promotion is not set", ErrPromotion)
	}
	c.mu.Lock()
	if c.promoting {
		c.mu.Unlock()
		return PromotionReport{}, fmt.Errorf("%w: one is in progress", ErrPromotion)
	}
	c.promoting = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.promoting = false
		c.mu.Unlock()
	}()
	return c.promote(ctx, to, false)
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
	ttl := opt.LeaseTTL
	if ttl <= 0 {
		ttl = 30 * time.Second
	}
	epoch, err := opt.Lease.Acquire(ctx, "tierkit/replica/"+c.opts.Name, ttl)
	if err != nil {
		return rep, fmt.Errorf("%w: lease: %w", ErrPromotion, err)
	}
	rep.Epoch = epoch
	defer func() { _ = opt.Lease.Release(context.WithoutCancel(ctx), "tierkit/replica/"+c.opts.Name, epoch) }()

	c.mu.Lock()
	old := c.lastPrimary
	last, synchronous := c.lastPosition, c.lastSynchronous
	var stands []*standby
	configured := len(c.members) - 1
	for _, m := range c.members {
		if m.node == old && !(m.up() && m.state.Role == RoleReplica) { // one that stepped down by itself is a candidate like the others
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

	// 1. Cut replication on every standby that answers. From here on the old primary, thawed or not, can acknowledge nothing that
	// needs a replica, and the positions are final.
	c.cutAll(ctx, stands)
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
	if err != nil {
		c.followAll(ctx, answered, nil, old, &rep) // as it was before
		return rep, err
	}

	// 2. Promote, and route to it at once.
	p, _ := promoter(c.dialect)
	state, err := p.Promote(ctx, best.conn)
	if err != nil {
		return rep, fmt.Errorf("%w: promoting %s: %w", ErrPromotion, best.m.Name, err)
	}
	rep.To, rep.Took, rep.At = best.m.Name, time.Since(began), time.Now()
	c.mu.Lock()
	m := best.m
	before := c.statusOf(m)
	m.state, m.lastErr, m.probed, m.began = state, "", true, time.Now()
	m.gen.Add(1)
	m.machine.Force(health.Up, m.began)
	if state.Replayed.Timeline == 0 { // a dialect without timelines: remember who was promoted last
		m.overlay = c.timeline + 1
	}
	c.forked = best.state.Received
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
	c.mu.Unlock()
	if c.opts.Replace != nil { // its place among the replicas is empty
		c.wg.Go(func() { c.opts.Replace(c.ctx, before) })
	}
	return rep, nil
}

const (
	// hearMargin is for messages that were on their way when the primary was lost.
	hearMargin = 200 * time.Millisecond
	// hearWindow is how long a message proves that the primary lives. An idle PostgreSQL primary sends one every ten seconds or so, a busy one all the time.
	hearWindow = 5 * time.Second
)

// alive refuses a promotion while a majority of the standbys that answer has heard from the primary lately, and after we lost it: then it lives, and it is
// this process that is cut off. A refused connection is acted on at once: there was no time to hear anything.
func (c *Cluster) alive(ctx context.Context, stands []*standby, lost time.Duration, primary string) error {
	h, ok := c.dialect.(hearer)
	if !ok || lost <= hearMargin {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(2*c.opts.ProbeTimeout, time.Second))
	defer cancel()
	var answers, heard atomic.Int32
	var wg sync.WaitGroup
	for _, s := range stands {
		wg.Go(func() {
			conn, err := s.m.admin().Connect(ctx)
			if err != nil {
				return
			}
			defer conn.Close()
			asked := time.Now()
			ago, ok, err := h.lastHeard(ctx, conn)
			if err != nil {
				return
			}
			answers.Add(1)
			if ago += time.Since(asked); ok && ago < lost-hearMargin && ago < hearWindow {
				heard.Add(1)
			}
		})
	}
	wg.Wait()
	if 2*heard.Load() > answers.Load() {
		return fmt.Errorf("%w: %d of %d standbys hear from %s, which this process does not reach", ErrPromotion, heard.Load(), answers.Load(), primary)
	}
	return nil
}

// hearer is a dialect that can ask a standby how long ago it heard from its primary; not ok: it is not connected to one.
type hearer interface {
	lastHeard(ctx context.Context, c driver.Conn) (ago time.Duration, ok bool, err error)
}

func (m *member) admin() driver.Connector {
	if m.Admin != nil {
		return m.Admin
	}
	return m.Connector
}

func (c *Cluster) cutAll(ctx context.Context, stands []*standby) {
	p, _ := promoter(c.dialect)
	var wg sync.WaitGroup
	for _, s := range stands {
		wg.Go(func() {
			// A standby that does not answer must not hold up the others for long.
			ctx, cancel := context.WithTimeout(ctx, max(4*c.opts.ProbeTimeout, 2*time.Second))
			defer cancel()
			conn, err := s.m.admin().Connect(ctx)
			if err != nil {
				s.err = err
				return
			}
			if s.state, s.err = p.Cut(ctx, conn); s.err != nil {
				_ = conn.Close()
				return
			}
			s.conn = conn
		})
	}
	wg.Wait()
}

// elect chooses the standby that received most, and refuses when more may be lost than is allowed.
func (c *Cluster) elect(stands []*standby, to string, configured int, last Position, synchronous bool, rep *PromotionReport) (best *standby, answered []*standby, err error) {
	opt := c.opts.Promotion
	var errs []error
	for _, s := range stands {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.m.Name, s.err))
			continue
		}
		answered = append(answered, s)
		if best == nil || further(s.state.Received, best.state.Received) {
			best = s
		}
	}
	if best == nil {
		return nil, answered, fmt.Errorf("%w: no standby answers: %w", ErrPromotion, errors.Join(errs...))
	}
	need := opt.MinStandbys
	if need <= 0 {
		need = configured
	}
	if len(answered) < need && opt.MaxLossBytes == 0 {
		return nil, answered, fmt.Errorf("%w: %d of %d standbys answer, and the last acknowledged write may be on another: %w", ErrPromotion, len(answered), need, errors.Join(errs...))
	}
	if to != "" {
		chosen := best
		for _, s := range answered {
			if s.m.Name == to {
				chosen = s
			}
		}
		if chosen.m.Name != to {
			return nil, answered, fmt.Errorf("%w: %s does not answer", ErrPromotion, to)
		}
		if further(best.state.Received, chosen.state.Received) && opt.MaxLossBytes == 0 {
			return nil, answered, fmt.Errorf("%w: %s is behind %s", ErrPromotion, to, best.m.Name)
		}
		best = chosen
	}
	if last.Offset > best.state.Received.Offset && last.Timeline >= best.state.Received.Timeline {
		rep.LossBytes = int64(last.Offset - best.state.Received.Offset)
	}
	// What a synchronous primary acknowledged is on a standby; when all of them answered, the best one has it. The rest was never acknowledged.
	covered := synchronous && len(answered) >= need
	if rep.LossBytes > opt.MaxLossBytes && !covered {
		return nil, answered, fmt.Errorf("%w: %s is %d bytes behind the last position seen of %s, more than MaxLossBytes", ErrPromotion, best.m.Name, rep.LossBytes, rep.From)
	}
	return best, answered, nil
}

func further(a, b Position) bool {
	if a.Timeline != b.Timeline && a.Timeline != 0 && b.Timeline != 0 {
		return a.Timeline > b.Timeline
	}
	return a.Offset > b.Offset
}

// followAll points the standbys (except one) to a primary.
func (c *Cluster) followAll(ctx context.Context, stands []*standby, except *standby, primary *node, rep *PromotionReport) {
	if primary == nil {
		return
	}
	p, _ := promoter(c.dialect)
	for _, s := range stands {
		if s == except || s.conn == nil {
			continue
		}
		if err := p.Follow(ctx, s.conn, primary.Node); err != nil {
			if rep.Failed == nil {
				rep.Failed = map[string]string{}
			}
			rep.Failed[s.m.Name] = err.Error()
		} else if except != nil {
			rep.Repointed = append(rep.Repointed, s.m.Name)
		}
	}
}
