package shard

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// A guard refuses statements that touch a row. It cannot refuse a statement that finds none, and of a slot that was
// handed over and cleaned up there are none: an UPDATE by an operation that still acts on an old map would quietly do
// nothing. So operations outside of a Tx (which locks the slot's state) may trust their map for Options.MapTTL only,
// and movers wait for that long:
//
//  1. A job announces the slots it is about to move in the map, and fences them only one MapTTL later. A process whose
//     map was confirmed within its MapTTL and does not announce the slot therefore needs no check: the slot cannot have
//     been fenced yet.
//  2. Else the operation asks the shard first whether it owns the slot, and does not run if it does not.
//  3. Handed-over rows stay on the source, guarded, for one MapTTL after the hand-over, and until the operations of the
//     mover's process that began under older maps have ended. An operation that ends within MapTTL thus found every row
//     that was there before.
//  4. One that ends later asks the shard at its end. The rows were there all the time if the shard has not begun to
//     delete them and has not become the slot's owner (again) since the operation's map; else its effect is not known:
//     ErrOutcomeUnknown.

// expired compares the wall clock too: the monotonic clock stops while a machine is suspended.
func expired(from, now time.Time, ttl time.Duration) bool {
	return now.Sub(from) > ttl || now.Round(0).Sub(from.Round(0)) > ttl
}

func (v *view) confirm(at time.Time) {
	for {
		old := v.confirmed.Load()
		if old != nil && !at.After(*old) || v.confirmed.CompareAndSwap(old, &at) {
			return
		}
	}
}

// visit is one key that an operation is about.
type visit struct {
	slot Slot
	key  Key
}

// mapLease is the permission of an operation to act on a map.
type mapLease struct {
	from  time.Time // when MapTTL began
	since []uint64  // by visit, as the shard said; nil when the map sufficed
	ask   bool      // at the end in any case
}

// arrive makes sure that the shard owns the visited slots.
func (c *Cluster) arrive(ctx context.Context, v *view, sh *shardState, visits []visit) (mapLease, error) {
	if c.db == nil {
		return mapLease{}, nil
	}
	now := time.Now()
	s := mapLease{from: *v.confirmed.Load()}
	check := expired(s.from, now, c.opts.MapTTL)
	if v.moving != nil {
		for i := range visits {
			check = check || v.moving[stored.Slot(visits[i].slot)]
			s.ask = s.ask || v.pinning != nil && v.pinning.Key == visits[i].key.pin()
		}
	}
	if !check {
		return s, nil
	}
	rows, err := c.slotRows(ctx, sh, visits)
	if err != nil {
		return mapLease{}, err
	}
	s.from = now
	for _, r := range rows {
		if !r.Owns() {
			return mapLease{}, fmt.Errorf("%w: %s is %s", errNotOwned, sh.ID, r.State)
		}
		s.since = append(s.since, r.Since)
	}
	return s, nil
}

// end is called when the operation succeeded.
func (s *mapLease) end(ctx context.Context, c *Cluster, v *view, sh *shardState, visits []visit) error {
	if c.db == nil || !s.ask && !expired(s.from, time.Now(), c.opts.MapTTL) {
		return nil
	}
	rows, err := c.slotRows(ctx, sh, visits)
	if err != nil {
		c.n.unknown.Add(1)
		return fmt.Errorf("%w: %s could not be asked whether it still owns slot %d: %w", ErrOutcomeUnknown, sh.ID,
			visits[0].slot, err)
	}
	for i, r := range rows {
		same := r.Since <= v.Epoch()
		if s.since != nil {
			same = r.Since == s.since[i]
		}
		if !same || !r.HasRows() {
			c.n.unknown.Add(1)
			return fmt.Errorf("%w: slot %d left %s meanwhile", ErrOutcomeUnknown, visits[i].slot, sh.ID)
		}
	}
	return nil
}

// slotRows asks in a transaction that may write, because a database that is replicated answers that on its primary.
func (c *Cluster) slotRows(ctx context.Context, sh *shardState, visits []visit) (rows []sqldb.SlotRow, err error) {
	d := c.db
	c.n.asked.Add(1)
	for n := 0; ; n++ {
		rows, err = func() (rows []sqldb.SlotRow, err error) {
			tx, err := sh.DB.BeginTx(ctx, nil)
			if err != nil {
				return nil, err
			}
			defer tx.Rollback()
			for i := range visits {
				r, err := d.SlotState(ctx, tx, stored.Slot(visits[i].slot), visits[i].key.parts(), true)
				if err != nil {
					return nil, err
				}
				rows = append(rows, r)
			}
			return rows, nil
		}()
		if err == nil || n == 10 || !d.IsRetryable(err) && !safeToRetry(err) {
			return rows, err
		}
		if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
			return nil, err
		}
	}
}

// readAgain is end for a read-only transaction, which does not hold the slot. In a snapshot the answer is as old as the
// reads.
func (c *Cluster) readAgain(ctx context.Context, tx *sql.Tx, from time.Time, h heldSlot) error {
	if !expired(from, time.Now(), c.opts.MapTTL) {
		return nil
	}
	r, err := c.db.SlotState(ctx, tx, stored.Slot(h.slot), h.key.parts(), true)
	if err != nil {
		return err
	}
	if r.Since != h.at.Since || !r.HasRows() {
		return fmt.Errorf("%w: slot %d left meanwhile", errNotOwned, h.slot)
	}
	return nil
}

// flights counts the operations that run under a view, in lanes so that processors do not fight for one cache line.
type flights [8]lane

type lane struct {
	n atomic.Int64
	_ [56]byte
}

func (l *lane) leave() { l.n.Add(-1) }

// enter takes the view in use and holds it until leave. It looks again after counting itself: a mover that retired the
// view before saw the count, or the operation sees the newer view.
func (c *Cluster) enter() (*view, *lane) {
	for {
		v := c.view.Load()
		l := &v.flights[rand.Uint32()&7]
		l.n.Add(1)
		if c.view.Load() == v {
			return v, l
		}
		l.leave()
	}
}

// idle reports whether no operation runs under a retired view. It reads lanes one after another: an operation that
// enters late leaves its lane at once, see enter.
func (v *view) idle() bool {
	for i := range v.flights {
		if v.flights[i].n.Load() != 0 {
			return false
		}
	}
	return true
}

// quiesce waits until no operation of this process runs under an older view, at most for patience: one that goes on for
// longer asks the shard when it ends.
func (c *Cluster) quiesce(ctx context.Context, patience time.Duration) error {
	old := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, v := range c.retired {
			if !v.idle() {
				return true
			}
		}
		c.retired = nil
		return false
	}
	for n, end := 0, time.Now().Add(patience); old() && time.Now().Before(end); n++ {
		if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
			return err
		}
	}
	return nil
}
