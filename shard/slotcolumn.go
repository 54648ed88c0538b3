package shard

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// FillOptions configure FillSlots.
type FillOptions struct {
	// Batch is the number of rows given a slot in one transaction. 0: 500.
	Batch int
	// RowsPerSecond throttles. 0: no throttle.
	RowsPerSecond int
	// Key makes the sharding key from the columns of Table.By, which are int64, string or nil. Default: Int or String
	// for one column, Composite for several. It must be what the application passes to Do and Tx.
	Key func(by []any) (Key, error)
	// Progress is called after each batch with the number of rows filled so far. May be nil.
	Progress func(id ID, table string, rows int64)
}

// FillReport says what FillSlots did.
type FillReport struct {
	// Rows that got a slot, in this call.
	Rows int64
	// Misplaced rows belong to another shard than the one they are on: the map does not describe where the data is.
	// With a map of one shard, or one made by Options.Modulo from the same id % n, there are none.
	Misplaced int64
}

// FillSlots makes the tables of Options.Tables fit to be sharded: it adds the slot column and its index where they are
// missing, gives every row without a slot its slot in batches, and then requires one (PostgreSQL). The service goes on
// meanwhile; it must write the slot into new rows from the time the column is there, and rows without are found until
// none is left. It can be stopped and called again at any time. Not while a move is in progress: ErrMoving.
func (c *Cluster) FillSlots(ctx context.Context, o FillOptions) (FillReport, error) {
	var rep FillReport
	if c.opts.Dialect == nil || len(c.opts.Tables) == 0 {
		return rep, fmt.Errorf("%w: Options.Dialect and Options.Tables are needed", ErrPreflight)
	}
	if o.Batch < 0 || o.RowsPerSecond < 0 {
		return rep, fmt.Errorf("shard: FillOptions.Batch or RowsPerSecond is negative")
	}
	if o.Batch == 0 {
		o.Batch = 500
	}
	if o.Key == nil {
		o.Key = defaultKey
	}
	if err := c.Refresh(ctx); err != nil {
		return rep, err
	}
	v := c.view.Load()
	if v.st.Job != nil {
		return rep, ErrMoving
	}
	j := &Job{c: c, opts: MoveOptions{LockTimeout: 200 * time.Millisecond, RowsPerSecond: o.RowsPerSecond}, ctx: ctx,
		token: v.st.Token}
	for _, sh := range v.dbs {
		for _, t := range c.opts.Tables {
			if err := j.fillTable(v, sh, t, o, &rep); err != nil {
				return rep, fmt.Errorf("shard: fill %s on %s: %w", t.Name, sh.ID, err)
			}
		}
	}
	return rep, nil
}

func (j *Job) fillTable(v *view, sh *shardState, t Table, o FillOptions, rep *FillReport) error {
	d := j.c.opts.Dialect
	var info *tableInfo
	err := j.in(sh, func(tx *sql.Tx) (err error) { info, err = d.columns(j.ctx, tx, t); return err })
	if err != nil {
		return err
	}
	if err := info.findColumns(); err != nil {
		return err
	}
	if err := d.addSlotColumn(j.ctx, sh.DB, info); err != nil {
		return err
	}
	for rows := int64(0); ; {
		began := time.Now()
		n := 0
		err := j.in(sh, func(tx *sql.Tx) error {
			pks, by, err := d.unslotted(j.ctx, tx, info, o.Batch)
			n = len(pks)
			if err != nil || n == 0 {
				return err
			}
			slots := make([]Slot, n)
			elsewhere := int64(0)
			for i := range by {
				parts, err := columnValues(by[i])
				if err != nil {
					return err
				}
				k, err := o.Key(parts)
				if err != nil {
					return err
				}
				slots[i] = v.SlotOf(k)
				if v.Owner(slots[i]) != sh.ID {
					elsewhere++
				}
			}
			filled, err := d.fillSlots(j.ctx, tx, info, pks, slots)
			rows, rep.Rows, rep.Misplaced = rows+filled, rep.Rows+filled, rep.Misplaced+elsewhere
			return err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return d.requireSlot(j.ctx, sh.DB, info)
		}
		if o.Progress != nil {
			o.Progress(sh.ID, t.Name, rows)
		}
		if err := j.throttle(n, began); err != nil {
			return err
		}
	}
}

// columnValues reads a JSON array of scalars: integers as int64, all else as its text.
func columnValues(text string) ([]any, error) {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var vals []any
	if err := dec.Decode(&vals); err != nil {
		return nil, err
	}
	for i, v := range vals {
		switch v := v.(type) {
		case json.Number:
			if n, err := v.Int64(); err == nil {
				vals[i] = n
			} else {
				vals[i] = v.String()
			}
		case string, nil:
		default:
			vals[i] = fmt.Sprint(v)
		}
	}
	return vals, nil
}

func defaultKey(by []any) (Key, error) {
	for _, v := range by {
		if v == nil {
			return Key{}, fmt.Errorf("%w: a column of the sharding key is NULL; give FillOptions.Key", ErrPreflight)
		}
	}
	if len(by) > 1 {
		return Composite(by...), nil
	}
	if n, ok := by[0].(int64); ok {
		return Int(n), nil
	}
	return String(by[0].(string)), nil
}

func (t *tableInfo) hasSlot() bool {
	for _, c := range t.cols {
		if strings.EqualFold(c.name, t.SlotColumn) {
			return true
		}
	}
	return false
}
