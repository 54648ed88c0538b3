package shard

import (
	"database/sql"
	"time"
)

// copy walks the rows by key. Where it is stands in the target, in the transaction of the rows.
func (j *Job) copy(g *group) error {
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	d := j.c.opts.Dialect
	if err := j.enter(PhaseCopy); err != nil {
		return err
	}
	const end = "end"
	for _, t := range g.tables {
		place := ""
		err := j.in(g.to, func(tx *sql.Tx) (err error) { place, err = d.place(j.ctx, tx, g.name, t.Name); return err })
		if err != nil {
			return err
		}
		for place != end {
			began := time.Now()
			var rows []row
			next := ""
			if err := j.in(g.from, func(tx *sql.Tx) (err error) {
				rows, next, err = d.chunk(j.ctx, tx, t, g.slots, place, j.opts.Chunk)
				return err
			}); err != nil {
				return err
			}
			if len(rows) < j.opts.Chunk {
				next = end
			}
			if err := j.crashPoint("mid copy"); err != nil {
				return err
			}
			err := j.in(g.to, func(tx *sql.Tx) error {
				if err := d.upsert(j.ctx, tx, t, rows); err != nil {
					return err
				}
				return d.setPlace(j.ctx, tx, g.name, t.Name, next)
			})
			if err != nil {
				return err
			}
			place = next
			j.note(func(p *Progress) { p.RowsCopied += int64(len(rows)) })
			if _, err := j.drain(g, 1); err != nil { // keeps the list of dirty keys short
				return err
			}
			if err := j.throttle(len(rows), began); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *Job) throttle(rows int, began time.Time) error {
	if j.opts.RowsPerSecond <= 0 {
		return j.ctx.Err()
	}
	wait := time.Duration(rows)*time.Second/time.Duration(j.opts.RowsPerSecond) - time.Since(began)
	if wait <= 0 {
		return j.ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}
