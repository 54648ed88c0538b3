package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// FillOptions configure FillSlots.
type FillOptions struct {
	// Batch is the number of rows given a slot in one transaction. Zero means 500.
	Batch int
	// RowsPerSecond throttles. Zero means no throttle.
	RowsPerSecond int
	// Key makes the sharding key from the columns of Table.By, which are int64, string or nil. nil means Int or String
	// for one column, Composite for several. It must be what the application passes to Do and Tx.
	Key func(by []any) (shard.Key, error)
	// Progress is called after each batch with the number of rows filled so far. May be nil.
	Progress func(id shard.ID, table string, rows int64)
}

// FillReport says what FillSlots did.
type FillReport struct {
	// Rows that got a slot, in this call.
	Rows int64
	// Misplaced rows belong to another shard than the one they are on: the map does not describe where the data is.
	// With a map of one shard, or one with placement Modulo from the same id % n, there are none.
	Misplaced int64
}

// FillSlots makes the tables of shard.Options.Tables fit to be sharded: it adds the slot column and its index where
// they are missing, gives every row without a slot its slot in batches, and then requires one (PostgreSQL). The service
// goes on meanwhile; it must write the slot into new rows from the time the column is there, and rows without are found
// until none is left. It can be stopped and called again at any time. Not while a move is in progress: shard.ErrMoving.
func FillSlots(ctx context.Context, c *shard.Cluster, o FillOptions) (FillReport, error) {
	f := &filler{c: c, m: c.Map()}
	var err error
	if f.d, err = database(c); err != nil {
		return f.report, err
	}
	if f.o, err = o.withDefaults(); err != nil {
		return f.report, err
	}
	if len(c.Tables()) == 0 {
		return f.report, fmt.Errorf("%w: shard.Options.Tables are needed", shard.ErrPreflight)
	}
	if err := c.Refresh(ctx); err != nil {
		return f.report, err
	}
	f.m = c.Map()
	if f.m.Moving() {
		return f.report, shard.ErrMoving
	}
	for _, id := range f.m.Shards() {
		for _, t := range c.Tables() {
			if err := f.table(ctx, id, t); err != nil {
				return f.report, fmt.Errorf("schema: fill %s on %s: %w", t.Name, id, err)
			}
		}
	}
	return f.report, nil
}

func (o FillOptions) withDefaults() (FillOptions, error) {
	if o.Batch < 0 || o.RowsPerSecond < 0 {
		return o, errors.New("schema: FillOptions.Batch or RowsPerSecond is negative")
	}
	if o.Batch == 0 {
		o.Batch = 500
	}
	if o.Key == nil {
		o.Key = defaultKey
	}
	return o, nil
}

// filler is one call of FillSlots.
type filler struct {
	c      *shard.Cluster
	d      sqldb.Database
	m      *shard.Map
	o      FillOptions
	report FillReport
}

func (f *filler) table(ctx context.Context, id shard.ID, t shard.Table) error {
	db := f.c.DB(id)
	var info *sqldb.Table
	err := f.c.Unguarded(ctx, id, func(tx *sql.Tx) (err error) {
		info, err = f.d.Columns(ctx, tx, spec(t))
		return err
	})
	if err != nil {
		return err
	}
	if err := info.FindColumns(); err != nil {
		return err
	}
	if err := f.d.AddSlotColumn(ctx, db, info); err != nil {
		return err
	}
	for rows := int64(0); ; {
		began := time.Now()
		n, filled, err := f.batch(ctx, id, info)
		if err != nil {
			return err
		}
		if n == 0 {
			return f.d.RequireSlot(ctx, db, info)
		}
		rows += filled
		if f.o.Progress != nil {
			f.o.Progress(id, t.Name, rows)
		}
		if f.o.RowsPerSecond > 0 {
			wait := time.Duration(n)*time.Second/time.Duration(f.o.RowsPerSecond) - time.Since(began)
			if err := backoff.Sleep(ctx, wait); err != nil {
				return err
			}
		}
	}
}

// batch gives some rows their slots, and returns how many it found and filled.
func (f *filler) batch(ctx context.Context, id shard.ID, info *sqldb.Table) (n int, filled int64, err error) {
	elsewhere := int64(0)
	err = f.c.Unguarded(ctx, id, func(tx *sql.Tx) error {
		elsewhere = 0
		pks, by, err := f.d.Unslotted(ctx, tx, info, f.o.Batch)
		n = len(pks)
		if err != nil || n == 0 {
			return err
		}
		slots := make([]sqldb.Slot, n)
		for i := range by {
			parts, err := sqldb.JSONScalars(by[i])
			if err != nil {
				return err
			}
			k, err := f.o.Key(parts)
			if err != nil {
				return err
			}
			s := f.m.SlotOf(k)
			if slots[i] = sqldb.Slot(s); f.m.Owner(s) != id {
				elsewhere++
			}
		}
		filled, err = f.d.FillSlots(ctx, tx, info, pks, slots)
		return err
	})
	if err == nil {
		f.report.Rows += filled
		f.report.Misplaced += elsewhere
	}
	return n, filled, err
}

func defaultKey(by []any) (shard.Key, error) {
	for _, v := range by {
		if v == nil {
			return shard.Key{}, fmt.Errorf("%w: a column of the sharding key is NULL; give FillOptions.Key",
				shard.ErrPreflight)
		}
	}
	if len(by) > 1 {
		return shard.Composite(by...), nil
	}
	if n, ok := by[0].(int64); ok {
		return shard.Int(n), nil
	}
	return shard.String(by[0].(string)), nil
}
