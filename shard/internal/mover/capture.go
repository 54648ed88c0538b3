package mover

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	// dirtyBatch entries are read at a time. A hot key is in many of them and is copied once.
	dirtyBatch = 1000
	// drainMax batches are brought over at a time while writers may write faster than that.
	drainMax = 10
	// tidyAfter forgotten entries their room is given back: otherwise reads of the others pass over them.
	tidyAfter = 20 * dirtyBatch
)

// capture has the source note the keys that change, and brings them to the target.
type capture struct {
	*work
	forgotten int // dirty entries since the last tidy
}

// begin makes the source note keys. Slot rows come before tables, as in clients' transactions. The table lock waits for
// writers that began before the guard was there; the changed slot rows make those with an older snapshot fail instead
// of writing unnoticed.
func (c *capture) begin(ctx context.Context, g *group) error {
	return c.In(ctx, g.from.db, func(tx *sql.Tx) error {
		if err := c.Dialect.SetState(ctx, tx, g.slots, sqldb.Capture); err != nil {
			return err
		}
		if err := c.Dialect.LockTables(ctx, tx, g.tables); err != nil {
			return err
		}
		if err := c.Dialect.NoteUnlocked(ctx, tx, g.slots); err != nil {
			return err
		}
		return c.Dialect.Guards(ctx, tx, g.tables)
	})
}

// batch is what became of some dirty keys: by table the rows as they are now, and the keys without a row.
type batch struct {
	keys []sqldb.DirtyKey
	rows map[string][]sqldb.Row
	gone map[string][]string
}

// drain brings keys that changed on the source to the target: it reads their present rows (not the changes), so that
// order and repetition do not matter, and then deletes exactly the entries it read. A cursor over seq would skip
// transactions that took a low number and committed late. It runs at most max batches (0: until none is left, which
// only a fence guarantees to happen) and returns how many entries it found.
func (c *capture) drain(ctx context.Context, g *group, max int) (total int, err error) {
	for n := 0; max == 0 || n < max; n++ {
		b, err := c.read(ctx, g)
		if err != nil || len(b.keys) == 0 {
			return total, err
		}
		if err := c.step("mid drain"); err != nil {
			return total, err
		}
		if err := c.write(ctx, g, b); err != nil {
			return total, err
		}
		if err := c.In(ctx, g.from.db, func(tx *sql.Tx) error {
			return c.Dialect.Forget(ctx, tx, b.keys)
		}); err != nil {
			return total, err
		}
		for _, k := range b.keys {
			delete(g.verified, k.Slot)
		}
		total += len(b.keys)
		if c.forgotten += len(b.keys); max > 0 && c.forgotten >= tidyAfter {
			c.tidy(ctx, g)
		}
		if len(b.keys) < dirtyBatch {
			break
		}
	}
	return total, nil
}

// read reads dirty keys and their rows in one transaction on the source.
func (c *capture) read(ctx context.Context, g *group) (b batch, err error) {
	err = c.In(ctx, g.from.db, func(tx *sql.Tx) error {
		b = batch{rows: map[string][]sqldb.Row{}, gone: map[string][]string{}}
		var err error
		if b.keys, err = c.Dialect.Dirty(ctx, tx, g.slots, dirtyBatch); err != nil {
			return err
		}
		for _, t := range g.tables {
			if err := c.readTable(ctx, tx, g, t, &b); err != nil {
				return err
			}
		}
		return nil
	})
	return b, err
}

func (c *capture) readTable(ctx context.Context, tx *sql.Tx, g *group, t *sqldb.Table, b *batch) error {
	var pks []string
	missing := map[string]bool{}
	for _, k := range b.keys {
		if k.Table == t.Name && !missing[k.PK] {
			missing[k.PK] = true
			pks = append(pks, k.PK)
		}
	}
	if len(pks) == 0 {
		return nil
	}
	rows, err := c.Dialect.Current(ctx, tx, t, pks)
	if err != nil {
		return err
	}
	for _, r := range rows {
		// A row whose slot was changed to another does not belong to the target any more.
		if slices.Contains(g.slots, r.Slot) {
			b.rows[t.Name] = append(b.rows[t.Name], r)
			delete(missing, r.PK)
		}
	}
	for pk := range missing {
		b.gone[t.Name] = append(b.gone[t.Name], pk)
	}
	return nil
}

// write brings a batch to the target, in one transaction.
func (c *capture) write(ctx context.Context, g *group, b batch) error {
	return c.In(ctx, g.to.db, func(tx *sql.Tx) error {
		for _, t := range slices.Backward(g.tables) { // children before parents
			if err := c.Dialect.Remove(ctx, tx, t, b.gone[t.Name]); err != nil {
				return err
			}
		}
		for _, t := range g.tables {
			if err := c.Dialect.Upsert(ctx, tx, t, b.rows[t.Name]); err != nil {
				return err
			}
		}
		return nil
	})
}

// tidy only saves time; an error may pass.
func (c *capture) tidy(ctx context.Context, g *group) {
	c.failed(c.Dialect.Tidy(ctx, g.from.db))
	c.forgotten = 0
}

// settle makes the writers of the group lock the slots' states from now on, and waits for the transactions that began
// before and may not have: a fence waits for those that hold the lock. No writer waits meanwhile. Slots are verified
// after they were settled, so that group.verified implies both.
func (c *capture) settle(ctx context.Context, g *group) error {
	if err := c.In(ctx, g.from.db, func(tx *sql.Tx) error {
		return c.Dialect.NoteLocked(ctx, tx, g.tables, g.slots)
	}); err != nil {
		return err
	}
	if err := c.step("before settle"); err != nil {
		return err
	}
	var old []string
	for n := 0; ; n++ {
		now, err := c.writing(ctx, g)
		if err != nil {
			return err
		}
		if n == 0 {
			old = now
		}
		old = slices.DeleteFunc(old, func(id string) bool { return !slices.Contains(now, id) })
		if len(old) == 0 {
			return nil
		}
		if _, err := c.drain(ctx, g, drainMax); err != nil { // it may take as long as the longest transaction
			return err
		}
		if err := backoff.Sleep(ctx, c.pauses.settle.Delay(n)); err != nil {
			return err
		}
	}
}

// errSeen rolls a transaction back that has changed nothing.
var errSeen = errors.New("shard: seen")

func (c *capture) writing(ctx context.Context, g *group) (now []string, err error) {
	err = c.In(ctx, g.from.db, func(tx *sql.Tx) (err error) {
		if now, err = c.Dialect.Writing(ctx, tx, g.tables); err == nil {
			err = errSeen
		}
		return err
	})
	if errors.Is(err, errSeen) {
		err = nil
	}
	return now, err
}
