package schema

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// retryPolicy spaces attempts after a lock timeout.
var retryPolicy = backoff.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond}

// Reference is a small table that every shard has whole, such as countries or prices, so that queries can join it. Its
// home is the shard whose name sorts first among those the cluster knows; its rows count.
type Reference struct {
	// Name as written in SQL, and Key, the primary key. Required.
	Name string
	Key  []string
}

// UpdateReferences runs f in a transaction on the home shard and then brings the tables, in order (those that others
// refer to first), to all other shards, as SyncReferences does. When f committed and a shard could not be reached the
// error is a *shard.PartialError: call SyncReferences until it succeeds. Readers of a shard see either the old rows or
// the new ones, but not all shards change at the same moment.
func UpdateReferences(ctx context.Context, c *shard.Cluster, refs []Reference, f func(tx *sql.Tx) error) error {
	home := c.Shards()[0]
	tx, err := home.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("schema: %s: %w", home.ID, err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("schema: %s: %w", home.ID, err)
	}
	return SyncReferences(ctx, c, refs)
}

// SyncReferences makes the tables on all shards equal to those on the home shard: rows that differ are replaced and
// others deleted, in one transaction per shard. Concurrent calls do no harm: each reads the home after it has locked
// the copy's rows. The error is a *shard.PartialError.
func SyncReferences(ctx context.Context, c *shard.Cluster, refs []Reference) error {
	d, err := database(c)
	if err != nil {
		return err
	}
	for i, r := range refs {
		if r.Name == "" || len(r.Key) == 0 {
			return fmt.Errorf("schema: refs[%d] needs a Name and a Key", i)
		}
	}
	shards := c.Shards()
	failed := map[shard.ID]error{}
	var mu sync.Mutex // guards failed
	var wg sync.WaitGroup
	for _, sh := range shards[1:] {
		wg.Go(func() {
			if err := syncShard(ctx, c, d, shards[0], sh, refs); err != nil {
				mu.Lock()
				failed[sh.ID] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		return &shard.PartialError{Failed: failed}
	}
	return nil
}

func syncShard(ctx context.Context, c *shard.Cluster, d sqldb.Database, home, to shard.Shard, refs []Reference) error {
	if err := prepare(ctx, c, d, to); err != nil {
		return err
	}
	tx, err := to.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// One at a time per shard: an older copy must not be written after a newer one.
	if err := d.LockReferences(ctx, tx); err != nil {
		return err
	}
	from, err := home.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer from.Rollback()
	if err := d.Snapshot(ctx, from); err != nil {
		return err
	}
	changes := make([]change, len(refs))
	for i, r := range refs {
		if changes[i], err = compare(ctx, d, from, tx, r); err != nil {
			return fmt.Errorf("table %s of %s and %s: %w", r.Name, home.ID, to.ID, err)
		}
	}
	for _, ch := range slices.Backward(changes) {
		if err := d.Remove(ctx, tx, ch.table, ch.gone); err != nil {
			return err
		}
	}
	for _, ch := range changes {
		if err := d.Upsert(ctx, tx, ch.table, ch.rows); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// prepare makes the state tables of a shard, one of which LockReferences needs.
func prepare(ctx context.Context, c *shard.Cluster, d sqldb.Database, on shard.Shard) error {
	m := c.Map()
	var owned []sqldb.Slot
	for _, s := range m.Owned(on.ID) {
		owned = append(owned, sqldb.Slot(s))
	}
	return mover.RetryTransient(ctx, d, retryPolicy, func() error {
		return sqldb.InTx(ctx, on.DB, func(tx *sql.Tx) error { return d.Prepare(ctx, tx, m.Slots(), owned) })
	})
}

// change is what makes a table equal to that of the home shard.
type change struct {
	table *sqldb.Table
	rows  []sqldb.Row
	gone  []string
}

func compare(ctx context.Context, d sqldb.Database, from, to *sql.Tx, r Reference) (ch change, err error) {
	t := sqldb.TableSpec{Name: r.Name, Key: r.Key, By: r.Key}
	if ch.table, err = d.Columns(ctx, to, t); err != nil {
		return ch, err
	}
	there, err := d.Columns(ctx, from, t)
	if err != nil {
		return ch, err
	}
	if !ch.table.SameSchema(there) {
		return ch, fmt.Errorf("%w: %s and %s", shard.ErrPreflight, there.Fingerprint(), ch.table.Fingerprint())
	}
	if err := ch.table.FindColumns(); err != nil {
		return ch, err
	}
	want, err := d.All(ctx, from, ch.table)
	if err != nil {
		return ch, err
	}
	have, err := d.All(ctx, to, ch.table)
	if err != nil {
		return ch, err
	}
	seen := map[string]sqldb.Row{}
	for _, h := range have {
		seen[h.PK] = h
	}
	for _, w := range want {
		if h, ok := seen[w.PK]; !ok || h.JSON != w.JSON || !slices.EqualFunc(h.Vals, w.Vals, sameValue) {
			ch.rows = append(ch.rows, w)
		}
		delete(seen, w.PK)
	}
	for pk := range seen {
		ch.gone = append(ch.gone, pk)
	}
	return ch, nil
}

func sameValue(a, b any) bool {
	x, ok := a.([]byte)
	y, also := b.([]byte)
	if ok && also {
		return slices.Equal(x, y)
	}
	return !ok && !also && a == b
}
