package shard

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
)

// Reference is a small table that every shard has whole, such as countries or prices, so that queries can join it. Its
// home is the shard whose name sorts first among those the cluster knows; what stands there counts.
type Reference struct {
	// Name as written in SQL, and Key, the primary key. Required.
	Name string
	Key  []string
}

// UpdateReferences runs f in a transaction on the home shard and then brings the tables, in order (those that others
// refer to first), to all other shards, as SyncReferences does. When f committed and a shard could not be reached the
// error is a *PartialError: call SyncReferences until it succeeds. Readers of a shard see either the old rows or the
// new ones, but not all shards change at the same moment.
func (c *Cluster) UpdateReferences(ctx context.Context, refs []Reference, f func(tx *sql.Tx) error) error {
	home := c.known()[0]
	tx, err := home.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("shard: %s: %w", home.ID, err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("shard: %s: %w", home.ID, err)
	}
	return c.SyncReferences(ctx, refs)
}

// SyncReferences makes the tables on all shards equal to those on the home shard: rows that differ are replaced and
// others deleted, in one transaction per shard. Concurrent calls do no harm: each reads the home after it has locked
// the copy's rows. The error is a *PartialError.
func (c *Cluster) SyncReferences(ctx context.Context, refs []Reference) error {
	d := c.opts.Dialect
	if d == nil {
		return fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	for i, r := range refs {
		if r.Name == "" || len(r.Key) == 0 {
			return fmt.Errorf("shard: refs[%d] needs a Name and a Key", i)
		}
	}
	shards := c.known()
	failed := map[ID]error{}
	var mu sync.Mutex // guards failed
	var wg sync.WaitGroup
	for _, sh := range shards[1:] {
		wg.Go(func() {
			if err := c.syncReferences(ctx, shards[0], sh, refs); err != nil {
				mu.Lock()
				failed[sh.ID] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		return &PartialError{Failed: failed}
	}
	return nil
}

func (c *Cluster) syncReferences(ctx context.Context, home, sh *shardState, refs []Reference) error {
	d := c.opts.Dialect
	if err := c.prepareShard(ctx, sh); err != nil {
		return err
	}
	tx, err := sh.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// One at a time per shard: an older copy must not be written after a newer one.
	if err := d.lockReferences(ctx, tx); err != nil {
		return err
	}
	from, err := home.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer from.Rollback()
	if err := d.snapshot(ctx, from); err != nil {
		return err
	}
	gone := make([][]string, len(refs))
	infos := make([]*tableInfo, len(refs))
	rows := make([][]row, len(refs))
	for i, r := range refs {
		t := Table{Name: r.Name, Key: r.Key, By: r.Key}
		info, err := d.columns(ctx, tx, t)
		if err != nil {
			return err
		}
		there, err := d.columns(ctx, from, t)
		if err != nil {
			return err
		}
		if !info.sameSchema(there) {
			return fmt.Errorf("%w: table %s on %s: %s on %s: %s", ErrPreflight, r.Name, home.ID, there.fingerprint(),
				sh.ID, info.fingerprint())
		}
		if err := info.findColumns(); err != nil {
			return err
		}
		want, err := d.all(ctx, from, info)
		if err != nil {
			return err
		}
		have, err := d.all(ctx, tx, info)
		if err != nil {
			return err
		}
		seen := map[string]row{}
		for _, h := range have {
			seen[h.pk] = h
		}
		for _, w := range want {
			if h, ok := seen[w.pk]; !ok || h.json != w.json || !slices.EqualFunc(h.vals, w.vals, sameValue) {
				rows[i] = append(rows[i], w)
			}
			delete(seen, w.pk)
		}
		for pk := range seen {
			gone[i] = append(gone[i], pk)
		}
		infos[i] = info
	}
	for i := len(refs) - 1; i >= 0; i-- {
		if err := d.remove(ctx, tx, infos[i], gone[i]); err != nil {
			return err
		}
	}
	for i := range refs {
		if err := d.upsert(ctx, tx, infos[i], rows[i]); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func sameValue(a, b any) bool {
	x, ok := a.([]byte)
	y, also := b.([]byte)
	if ok && also {
		return slices.Equal(x, y)
	}
	return !ok && !also && a == b
}
