package shard

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Tx is a transaction on the shard of one key.
type Tx struct {
	*sql.Tx
	ctx  context.Context
	c    *Cluster
	v    *view
	sh   *shardState
	slot Slot

	readOnly bool
	also     []heldSlot // of a read-only transaction
}

// heldSlot is a slot that SlotOf asked for, and what the shard said of it.
type heldSlot struct {
	key  Key
	slot Slot
	at   sqldb.SlotRow
}

// Slot of the key the transaction was begun for.
func (t *Tx) Slot() Slot { return t.slot }

// Shard the transaction runs on.
func (t *Tx) Shard() ID { return t.sh.ID }

// SlotOf returns the slot of another key of the same shard, or ErrCrossShard. The transaction then holds that slot too,
// as it does the one it was begun for; without this call writes of another slot are only guarded row by row.
func (t *Tx) SlotOf(k Key) (Slot, error) {
	s := t.v.SlotOf(k)
	if i, ok := t.v.ownerIndex(s); !ok || t.v.dbs[i] != t.sh {
		t.c.n.crossShard.Add(1)
		return 0, fmt.Errorf("%w: %s is on %s, the transaction on %s", ErrCrossShard, k, t.v.Owner(s), t.sh.ID)
	}
	if d := t.c.db; d != nil && s != t.slot {
		at, err := d.SlotState(t.ctx, t.Tx, stored.Slot(s), k.parts(), t.readOnly)
		if err != nil {
			return 0, err
		}
		if !at.Owns() {
			return 0, fmt.Errorf("%w: %s is %s", errNotOwned, t.sh.ID, at.State)
		}
		if t.readOnly {
			t.also = append(t.also, heldSlot{k, s, at})
		}
	}
	return s, nil
}

// Tx runs f in a transaction on the shard that owns the key and commits when f returns nil. Refused by a fence it is
// rolled back and repeated on the new owner, as it is after a serialization failure. It holds the slot's state shared
// until it ends, so a hand-over waits for it, no write of it is lost and no read of it is stale. A read-only one does
// not hold the slot; it checks when it began, and again when it took longer than Options.MapTTL. On a replica that lags
// it may read what is old by the lag.
func (c *Cluster) Tx(ctx context.Context, k Key, o *sql.TxOptions, f func(tx *Tx) error) error {
	d, readOnly := c.db, o != nil && o.ReadOnly
	again := func(err error) error {
		if err != nil && (d != nil && d.IsRetryable(err) || safeToRetry(err)) {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		return err
	}
	return c.retry(ctx, k, func(v *view, sh *shardState, s Slot) error {
		began := time.Now()
		tx, err := sh.DB.BeginTx(ctx, o)
		if err != nil {
			return again(err)
		}
		defer tx.Rollback()
		var at sqldb.SlotRow
		if d != nil {
			if at, err = d.SlotState(ctx, tx, stored.Slot(s), k.parts(), readOnly); err != nil {
				return again(err)
			}
			if !at.Owns() {
				return fmt.Errorf("%w: %s is %s", errNotOwned, sh.ID, at.State)
			}
		}
		t := &Tx{Tx: tx, ctx: ctx, c: c, v: v, sh: sh, slot: s, readOnly: readOnly}
		if err := f(t); err != nil {
			return again(err)
		}
		if d != nil && readOnly {
			for _, h := range append(t.also, heldSlot{k, s, at}) {
				if err := c.readAgain(ctx, tx, began, h); err != nil {
					return again(err)
				}
			}
		}
		return again(tx.Commit())
	})
}
