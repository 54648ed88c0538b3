package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// hearMargin is for messages that were on their way when the primary was lost.
	hearMargin = 200 * time.Millisecond
	// hearWindow is how long a message proves that the primary lives. An idle PostgreSQL primary sends one every ten
	// seconds or so, a busy one all the time.
	hearWindow = 5 * time.Second
)

// alive refuses a promotion while a majority of the standbys that answer has heard from the primary lately, and after
// we lost it: then it lives, and it is this process that is cut off. A refused connection is acted on at once: there
// was no time to hear anything.
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
		return fmt.Errorf("%w: %d of %d standbys hear from %s, which this process does not reach", ErrPromotion,
			heard.Load(), answers.Load(), primary)
	}
	return nil
}

// hearer is a dialect that can ask a standby how long ago it heard from its primary; not ok: it is not connected to
// one.
type hearer interface {
	lastHeard(ctx context.Context, c driver.Conn) (ago time.Duration, ok bool, err error)
}

func (c *Cluster) cutAll(ctx context.Context, stands []*standby) {
	p, _ := promoter(c.dialect)
	var wg sync.WaitGroup
	for _, s := range stands {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.patience())
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
func (c *Cluster) elect(stands []*standby, to string, configured int, last Position, synchronous bool,
	rep *PromotionReport) (best *standby, answered []*standby, err error) {
	opt := c.opts.Promotion
	var errs []error
	var first *standby // the furthest, whether it may be promoted or not
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range stands {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.m.Name, s.err))
			continue
		}
		answered = append(answered, s)
		if first == nil || further(s.state.Received, first.state.Received) {
			first = s
		}
		if s.m.draining {
			continue
		}
		// A node that was already told, and did not answer, may yet become the primary: a second one beside it would be
		// one too many.
		if best == nil || further(s.state.Received, best.state.Received) || s.m == c.chosen &&
			!further(best.state.Received, s.state.Received) {
			best = s
		}
	}
	if best == nil && first != nil {
		return nil, answered, fmt.Errorf("%w: all standbys that answer are draining", ErrPromotion)
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
		i := slices.IndexFunc(answered, func(s *standby) bool { return s.m.Name == to })
		if i < 0 {
			return nil, answered, fmt.Errorf("%w: %s does not answer", ErrPromotion, to)
		}
		best = answered[i]
	}
	if further(first.state.Received, best.state.Received) && opt.MaxLossBytes == 0 {
		return nil, answered, fmt.Errorf("%w: %s is behind %s", ErrPromotion, best.m.Name, first.m.Name)
	}
	if last.Offset > best.state.Received.Offset && last.Timeline >= best.state.Received.Timeline {
		rep.LossBytes = int64(last.Offset - best.state.Received.Offset)
	}
	// What a synchronous primary acknowledged is on a standby; when all of them answered, the best one has it. The rest
	// was never acknowledged.
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
func (c *Cluster) followAll(ctx context.Context, stands []*standby, except *standby, primary *node,
	rep *PromotionReport) {
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
			continue
		}
		c.mu.Lock()
		s.m.astray = false
		c.mu.Unlock()
		if except != nil {
			rep.Repointed = append(rep.Repointed, s.m.Name)
		}
	}
}
