package mover

import (
	"context"
	"database/sql"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// copier walks the rows of a group by slot and key.
type copier struct {
	*work
	capture  *capture
	throttle throttle
}

// copied is the place of a table of which all rows were copied.
const copied = "end"

// copy copies all tables. Its place in each is stored in the target, in the transaction of the rows.
func (c *copier) copy(ctx context.Context, g *group) error {
	if err := c.load(ctx, g, ErrSchemaChanged); err != nil {
		return err
	}
	if err := c.enter(stored.Copy); err != nil {
		return err
	}
	for _, t := range g.tables {
		var place string
		if err := c.In(ctx, g.to.db, func(tx *sql.Tx) (err error) {
			place, err = c.Dialect.Place(ctx, tx, g.name, t.Name)
			return err
		}); err != nil {
			return err
		}
		for place != copied {
			began := time.Now()
			rows, next, err := c.copyChunk(ctx, g, t, place)
			if err != nil {
				return err
			}
			place = next
			c.progress.change(func(p *Progress) { p.RowsCopied += int64(rows) })
			if _, err := c.capture.drain(ctx, g, 1); err != nil { // keeps the list of dirty keys short
				return err
			}
			if err := c.throttle.wait(ctx, rows, began); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyChunk copies the rows behind a place, and returns how many and the next place.
func (c *copier) copyChunk(ctx context.Context, g *group, t *sqldb.Table, place string) (n int, next string,
	err error) {
	var rows []sqldb.Row
	if err := c.In(ctx, g.from.db, func(tx *sql.Tx) (err error) {
		rows, next, err = c.Dialect.Chunk(ctx, tx, t, g.slots, place, c.opts.Chunk)
		return err
	}); err != nil {
		return 0, "", err
	}
	if len(rows) < c.opts.Chunk {
		next = copied
	}
	if err := c.step("mid copy"); err != nil {
		return 0, "", err
	}
	return len(rows), next, c.In(ctx, g.to.db, func(tx *sql.Tx) error {
		if err := c.Dialect.Upsert(ctx, tx, t, rows); err != nil {
			return err
		}
		return c.Dialect.SetPlace(ctx, tx, g.name, t.Name, next)
	})
}
