package shard

import (
	"database/sql"
	"slices"
)

const (
	// dirtyBatch entries are read at a time; a hot key is in many of them and is copied once.
	dirtyBatch = 1000
	// drainMax batches are brought over at a time while writers may write faster than that.
	drainMax = 10
	// tidyAfter entries that were forgotten their room is given back: they are in the way of those that are still to be
	// read.
	tidyAfter = 20 * dirtyBatch
)

// drain brings keys that changed on the source to the target: it reads what they are now (not what happened to them),
// so that order and repetition do not matter, and then deletes exactly the entries it read. A cursor over seq would
// skip transactions that took a low number and committed late. It runs at most max batches (0: until none is left,
// which only a fence guarantees to come) and returns how many entries it found.
func (j *Job) drain(g *group, max int) (total int, err error) {
	d := j.c.opts.Dialect
	for batch := 0; max == 0 || batch < max; batch++ {
		var keys []dirtyKey
		now := map[string][]row{}
		gone := map[string][]string{}
		err := j.in(g.from, func(tx *sql.Tx) error {
			keys, now, gone = nil, map[string][]row{}, map[string][]string{}
			var err error
			if keys, err = d.dirty(j.ctx, tx, g.slots, dirtyBatch); err != nil {
				return err
			}
			for _, t := range g.tables {
				var pks []string
				seen := map[string]bool{}
				for _, k := range keys {
					if k.table == t.Name && !seen[k.pk] {
						seen[k.pk] = true
						pks = append(pks, k.pk)
					}
				}
				if len(pks) == 0 {
					continue
				}
				have, err := d.current(j.ctx, tx, t, pks)
				if err != nil {
					return err
				}
				for _, r := range have {
					// else its slot was changed: it does not belong to the target any more
					if slices.Contains(g.slots, r.slot) {
						now[t.Name] = append(now[t.Name], r)
						delete(seen, r.pk)
					}
				}
				for pk := range seen {
					gone[t.Name] = append(gone[t.Name], pk)
				}
			}
			return nil
		})
		if err != nil || len(keys) == 0 {
			return total, err
		}
		if err := j.crashPoint("mid drain"); err != nil {
			return total, err
		}
		err = j.in(g.to, func(tx *sql.Tx) error {
			for _, t := range slices.Backward(g.tables) { // children before parents
				if err := d.remove(j.ctx, tx, t, gone[t.Name]); err != nil {
					return err
				}
			}
			for _, t := range g.tables {
				if err := d.upsert(j.ctx, tx, t, now[t.Name]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		err = j.in(g.from, func(tx *sql.Tx) error { return d.forget(j.ctx, tx, keys) })
		if err != nil {
			return total, err
		}
		for _, k := range keys {
			delete(j.verified, k.slot)
		}
		total += len(keys)
		if j.forgotten += len(keys); max > 0 && j.forgotten >= tidyAfter {
			j.tidy(g)
		}
		if len(keys) < dirtyBatch {
			break
		}
	}
	return total, nil
}

// tidy is only about time; what prevents it now may pass.
func (j *Job) tidy(g *group) {
	_ = j.c.opts.Dialect.tidy(j.ctx, g.from.DB)
	j.forgotten = 0
}
