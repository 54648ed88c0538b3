package mover

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// cleaner deletes rows: those of the source after a hand-over, or those of the target of a group that is undone.
type cleaner struct {
	*work
	throttle throttle
}

// clean deletes the source's rows in small steps and takes the target's guards off the slots that are its own now.
func (c *cleaner) clean(ctx context.Context, g *group) error {
	if err := c.enter(stored.Cleanup); err != nil {
		return err
	}
	if err := c.load(ctx, g, ErrSchemaChanged); err != nil {
		return err
	}
	// An operation that is late sees this before it can miss a row.
	if err := c.setState(ctx, g.from, g, sqldb.Gone); err != nil {
		return err
	}
	if err := c.wipe(ctx, g, g.from); err != nil {
		return err
	}
	if err := c.In(ctx, g.from.db, func(tx *sql.Tx) error { return c.guards(ctx, tx, g) }); err != nil {
		return err
	}
	return c.In(ctx, g.to.db, func(tx *sql.Tx) error {
		// The target of a reversible job still captures. The changed state waits for writers that note keys; what they
		// noted is forgotten.
		if err := c.Dialect.SetState(ctx, tx, g.slots, sqldb.Owned); err != nil {
			return err
		}
		if err := c.Dialect.ForgetSlots(ctx, tx, g.slots); err != nil {
			return err
		}
		if err := c.Dialect.DropPlaces(ctx, tx, g.job+"/%"); err != nil {
			return err
		}
		return c.guards(ctx, tx, g)
	})
}

// wipe deletes the rows and the dirty keys of the group's slots on one side.
func (c *cleaner) wipe(ctx context.Context, g *group, on side) error {
	for _, t := range slices.Backward(g.tables) {
		for {
			began := time.Now()
			var n int64
			if err := c.In(ctx, on.db, func(tx *sql.Tx) (err error) {
				n, err = c.Dialect.Clear(ctx, tx, t, g.slots, c.opts.Chunk)
				return err
			}); err != nil {
				return err
			}
			if n < int64(c.opts.Chunk) {
				break
			}
			if err := c.throttle.wait(ctx, int(n), began); err != nil {
				return err
			}
		}
	}
	return c.In(ctx, on.db, func(tx *sql.Tx) error { return c.Dialect.ForgetSlots(ctx, tx, g.slots) })
}

// undo is the way back of a group before its commit.
func (c *cleaner) undo(ctx context.Context, g *group) error {
	if err := c.load(ctx, g, ErrSchemaChanged); err != nil {
		return err
	}
	err := c.In(ctx, g.to.db, func(tx *sql.Tx) error {
		if err := c.Dialect.DropPlaces(ctx, tx, g.name); err != nil {
			return err
		}
		return c.Dialect.SetState(ctx, tx, g.slots, sqldb.Gone)
	})
	if err != nil {
		return err
	}
	if err := c.wipe(ctx, g, g.to); err != nil {
		return err
	}
	return c.In(ctx, g.from.db, func(tx *sql.Tx) error {
		if err := c.Dialect.NoteLocked(ctx, tx, g.tables, g.slots); err != nil {
			return err
		}
		if err := c.Dialect.SetState(ctx, tx, g.slots, sqldb.Owned); err != nil {
			return err
		}
		if err := c.Dialect.LockTables(ctx, tx, g.tables); err != nil {
			return err
		}
		// All that was noted, as the writers have ended.
		if err := c.Dialect.ForgetSlots(ctx, tx, g.slots); err != nil {
			return err
		}
		return c.Dialect.Guards(ctx, tx, g.tables)
	})
}
