package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// maxAssigned bounds a directory: all of it is in the map, which every change stores.
const maxAssigned = 16384

// rangeSlot is the slot of an integer in a map of ranges. Ranges below 0 count on backwards.
func (m *Map) rangeSlot(n int64) Slot {
	r := n / m.width
	if n%m.width < 0 {
		r--
	}
	if r %= int64(m.mod); r < 0 {
		r += int64(m.mod)
	}
	return Slot(r)
}

// RangeSlots are the slots of the keys from lo to hi, both included, in a map made with Options.RangeWidth: to move
// them (Change.Slots), or to ask only the shards that have them (Query.Only). nil in other maps, where a range of keys
// is everywhere.
func (m *Map) RangeSlots(lo, hi int64) []Slot {
	if m.width == 0 || hi < lo {
		return nil
	}
	var out []Slot
	first := lo - (lo%m.width+m.width)%m.width
	for n := first; n <= hi && len(out) < int(m.mod); n += m.width {
		out = append(out, m.rangeSlot(n))
		if n > n+m.width { // the end of int64
			break
		}
	}
	return out
}

// Assign puts a key of a directory on a shard, and gives it a slot of its own. It must not have been assigned before:
// ErrConflict; a move or Pin takes it elsewhere then. ErrMoving while a job is in progress.
func (c *Cluster) Assign(ctx context.Context, k Key, to ID) (Slot, error) {
	sh, err := c.shard(to)
	if err != nil {
		return 0, err
	}
	for {
		asked := time.Now()
		st, err := c.store.Load(ctx)
		if err != nil {
			return 0, err
		}
		switch _, ok := st.Pins[k.pin()]; {
		case !st.Directory:
			return 0, errors.New("shard: Assign needs a map made with Options.Directory; Pin is for the others")
		case ok:
			return 0, fmt.Errorf("%w: %s is assigned already", ErrConflict, k)
		case st.Job != nil:
			return 0, ErrMoving
		case len(st.Pins) >= maxAssigned:
			return 0, fmt.Errorf("%w: %d keys are assigned already", ErrPreflight, len(st.Pins))
		}
		next := st.clone()
		next.Epoch++
		slot := next.freeSlot()
		if next.Pins == nil {
			next.Pins, next.PinOwners = map[string]Slot{}, map[Slot]uint16{}
		}
		next.Pins[k.pin()], next.PinOwners[slot] = slot, 0
		if err := next.setOwner(slot, to); err != nil {
			return 0, err
		}
		// The shard knows of the slot first. If the swap fails the slot is somebody else's, or free: its row is set
		// again by whoever gets it.
		if d := c.opts.Dialect; d != nil {
			if err := c.prepareShard(ctx, sh); err != nil {
				return 0, err
			}
			j := &Job{c: c, opts: MoveOptions{LockTimeout: 200 * time.Millisecond}, ctx: ctx, token: st.Token}
			if err := j.in(sh, func(tx *sql.Tx) error {
				return d.setState(ctx, tx, []Slot{slot}, stateOwned)
			}); err != nil {
				return 0, err
			}
		}
		err = c.store.CompareAndSwap(ctx, st.Epoch, next)
		if errors.Is(err, ErrConflict) {
			if err := c.disown(ctx, sh, slot, st.Token); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		return slot, c.install(next, asked)
	}
}

// disown takes back what Assign told a shard of a slot, unless another process assigned the slot to the same shard
// meanwhile.
func (c *Cluster) disown(ctx context.Context, sh *shardState, s Slot, token uint64) error {
	if c.opts.Dialect == nil {
		return nil
	}
	st, err := c.store.Load(ctx)
	if err != nil {
		return err
	}
	if o, ok := st.PinOwners[s]; ok && st.Shards[o] == sh.ID {
		return nil
	}
	j := &Job{c: c, opts: MoveOptions{LockTimeout: 200 * time.Millisecond}, ctx: ctx, token: max(token, st.Token)}
	return j.in(sh, func(tx *sql.Tx) error { return c.opts.Dialect.setState(ctx, tx, []Slot{s}, stateGone) })
}

// freeSlot is the first slot that no key has had.
func (s *State) freeSlot() Slot {
	slot := Slot(s.Slots)
	for _, p := range s.Pins {
		slot = max(slot, p+1)
	}
	return slot
}
