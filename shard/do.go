package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// route finds the owner of a key in a view and counts it.
func (c *Cluster) route(v *view, k Key) (*shardState, Slot, error) {
	s := v.SlotOf(k)
	i, ok := v.ownerIndex(s)
	if !ok {
		if v.st.Directory {
			return nil, 0, fmt.Errorf("%w: %s", ErrUnassigned, k)
		}
		return nil, 0, fmt.Errorf("shard: slot %d has no owner", s)
	}
	sh := v.dbs[i]
	sh.routed.Add(1)
	c.n.routed.Add(1)
	if sh.hot != nil {
		sh.hot.add(k)
	}
	return sh, s, nil
}

// retry runs attempt until it succeeds, fails for another reason than a fence, or the time is up.
func (c *Cluster) retry(ctx context.Context, k Key, attempt func(v *view, sh *shardState, s Slot) error) error {
	var deadline time.Time
	for n := 0; ; n++ {
		if c.ctx.Err() != nil {
			return ErrClosed
		}
		v, sh, s, err := c.attempt(k, attempt)
		if err == nil || !c.refused(err) {
			return err
		}
		c.n.refused.Add(1)
		if h := c.opts.Hooks; h != nil && h.Refused != nil {
			c.call(&c.hooks, func() { h.Refused(s, sh.ID, n) })
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(c.opts.Retry)
		}
		if now.After(deadline) {
			return fmt.Errorf("%w: slot %d: %w", ErrFenced, s, err)
		}
		if err := c.Refresh(ctx); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if c.view.Load() == v { // nobody owns it yet: the hand-over is in progress
			if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
				return err
			}
		}
	}
}

// attempt is one attempt of retry, under the view in use.
func (c *Cluster) attempt(k Key, f func(v *view, sh *shardState, s Slot) error) (*view, *shardState, Slot, error) {
	v, lane := c.enter()
	defer lane.leave()
	sh, s, err := c.route(v, k)
	if err != nil {
		return v, nil, 0, err
	}
	return v, sh, s, f(v, sh, s)
}

// safeToRetry: pgconn and package replica know that nothing happened.
func safeToRetry(err error) bool {
	var s interface{ SafeToRetry() bool }
	return errors.As(err, &s) && s.SafeToRetry()
}

func (c *Cluster) refused(err error) bool {
	if errors.Is(err, errNotOwned) || errors.Is(err, errAgain) {
		return true
	}
	return c.opts.Dialect.IsFenced(err)
}

var (
	errNotOwned = errors.New("shard: the shard does not own the slot")
	errAgain    = errors.New("shard: serialization failure")
)

// Do runs f on the database that owns the key. When the fence of a move refuses a statement, or the map has changed,
// the map is refreshed and f runs again, so f must be safe to repeat when its first statement was refused; a single
// write statement is.
//
// A move loses no write of f, nor does it make f read what is old: of a slot that is about to move Do first asks the
// shard whether it owns it still, and the rows of a slot that was handed over stay where they were, guarded, until each
// Do that may have begun before has ended or is too old. A Do that outlives Options.MapTTL (f took that long, the
// process was stopped, the store could not be reached) asks the shard when f returned nil; if the rows may have been
// away meanwhile it returns ErrOutcomeUnknown. Statements of one f are not a unit: use Tx for that.
func (c *Cluster) Do(ctx context.Context, k Key, f func(ctx context.Context, db *sql.DB, s Slot) error) error {
	return c.retry(ctx, k, func(v *view, sh *shardState, s Slot) error {
		visits := []visit{{s, k}}
		lease, err := c.arrive(ctx, v, sh, visits)
		if err != nil {
			return err
		}
		if err := f(ctx, sh.DB, s); err != nil {
			return err
		}
		return lease.end(ctx, c, v, sh, visits)
	})
}
