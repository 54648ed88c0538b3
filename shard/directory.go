package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// maxAssigned bounds a directory: all of it is in the map, which every change stores.
const maxAssigned = 16384

// Assign puts a key of a map with placement Directory on a shard, and gives it a slot of its own. It returns
// ErrConflict if the key was assigned before (a move or Pin takes it elsewhere then), and ErrMoving while a job is in
// progress.
func (c *Cluster) Assign(ctx context.Context, k Key, to ID) (Slot, error) {
	sh, err := c.shard(to)
	if err != nil {
		return 0, err
	}
	for {
		asked := time.Now()
		st, err := c.load(ctx)
		if err != nil {
			return 0, err
		}
		if err := assignable(st, k); err != nil {
			return 0, err
		}
		next, slot := st.Next(), st.FreeSlot()
		if err := next.SetPin(k.pin(), slot, string(to)); err != nil {
			return 0, err
		}
		// The shard knows of the slot first. If the swap fails the slot is another key's, or free: its row is set again
		// when it is given away.
		if c.db != nil {
			if err := c.prepareShard(ctx, sh); err != nil {
				return 0, err
			}
			if err := c.setState(ctx, sh, slot, sqldb.Owned, st.Token); err != nil {
				return 0, err
			}
		}
		err = c.swap(ctx, st.Epoch, next)
		if errors.Is(err, ErrConflict) {
			if err := c.disown(ctx, sh, slot, st.Token); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		return Slot(slot), c.install(next, asked)
	}
}

func assignable(st *stored.State, k Key) error {
	switch _, ok := st.Pins[k.pin()]; {
	case !st.Directory:
		return errors.New("shard: Assign needs a map with placement Directory; Pin is for the others")
	case ok:
		return fmt.Errorf("%w: %s is assigned already", ErrConflict, k)
	case st.Job != nil:
		return ErrMoving
	case len(st.Pins) >= maxAssigned:
		return fmt.Errorf("%w: %d keys are assigned already", ErrPreflight, len(st.Pins))
	}
	return nil
}

func (c *Cluster) setState(ctx context.Context, sh *shardState, s stored.Slot, state sqldb.SlotState,
	token uint64) error {
	return c.access(token).In(ctx, sh.DB, func(tx *sql.Tx) error {
		return c.db.SetState(ctx, tx, []stored.Slot{s}, state)
	})
}

// disown takes a slot back from a shard, unless another process assigned the slot to the same shard meanwhile.
func (c *Cluster) disown(ctx context.Context, sh *shardState, s stored.Slot, token uint64) error {
	if c.db == nil {
		return nil
	}
	st, err := c.load(ctx)
	if err != nil {
		return err
	}
	if o, ok := st.PinOwners[s]; ok && st.Shards[o] == string(sh.ID) {
		return nil
	}
	return c.setState(ctx, sh, s, sqldb.Gone, max(token, st.Token))
}
