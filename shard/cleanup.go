package shard

import (
	"database/sql"
	"slices"
	"time"
)

// cleanup deletes the source's rows in small steps and takes the target's guards off the slots that are its own now.
func (j *Job) cleanup(g *group) error {
	d := j.c.opts.Dialect
	if err := j.enter(PhaseCleanup); err != nil {
		return err
	}
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	// An operation that is late sees this before it can miss a row.
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateGone) }); err != nil {
		return err
	}
	if err := j.wipe(g, g.from); err != nil {
		return err
	}
	err := j.in(g.from, func(tx *sql.Tx) error {
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
	if err != nil {
		return err
	}
	return j.in(g.to, func(tx *sql.Tx) error {
		// The target of a reversible job still captures. The changed state waits for writers that note keys; what they
		// noted is forgotten.
		if err := d.setState(j.ctx, tx, g.slots, stateOwned); err != nil {
			return err
		}
		if err := d.forgetSlots(j.ctx, tx, g.slots); err != nil {
			return err
		}
		if err := d.dropPlaces(j.ctx, tx, g.job+"/%"); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}

// wipe deletes the rows and the dirty keys of the group's slots on one side.
func (j *Job) wipe(g *group, sh *shardState) error {
	d := j.c.opts.Dialect
	for _, t := range slices.Backward(g.tables) {
		for {
			began := time.Now()
			var n int64
			if err := j.in(sh, func(tx *sql.Tx) (err error) {
				n, err = d.clear(j.ctx, tx, t, g.slots, j.opts.Chunk)
				return err
			}); err != nil {
				return err
			}
			if n < int64(j.opts.Chunk) {
				break
			}
			if err := j.throttle(int(n), began); err != nil {
				return err
			}
		}
	}
	return j.in(sh, func(tx *sql.Tx) error { return d.forgetSlots(j.ctx, tx, g.slots) })
}

// undo is the way back before the commit.
func (j *Job) undo(g *group) error {
	d := j.c.opts.Dialect
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	err := j.in(g.to, func(tx *sql.Tx) error {
		if err := d.dropPlaces(j.ctx, tx, g.name); err != nil {
			return err
		}
		return d.setState(j.ctx, tx, g.slots, stateGone)
	})
	if err != nil {
		return err
	}
	if err := j.wipe(g, g.to); err != nil {
		return err
	}
	return j.in(g.from, func(tx *sql.Tx) error {
		if err := d.slow(j.ctx, tx, g.tables, g.slots); err != nil {
			return err
		}
		if err := d.setState(j.ctx, tx, g.slots, stateOwned); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		if err := d.forgetSlots(j.ctx, tx, g.slots); err != nil { // all that was noted, as the writers have ended
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}
