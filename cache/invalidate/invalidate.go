// Package invalidate deletes cache entries exactly when the rows that they were made of have changed: the keys are
// written in the same transaction as the row, and a relay deletes them from the cache after the commit. A process that
// dies between its commit and its delete leaves nothing old behind.
//
//	box, err := invalidate.New(db, invalidate.Options{Regions: []invalidate.Region{{Name: "eu", Drop: tiered.Drop}}})
//	err = box.Migrate(ctx)
//	go box.Run(ctx, nil)
//	...
//	_, err = tx.ExecContext(ctx, "UPDATE users SET ...")
//	err = box.Add(ctx, tx, "user:42")
//	err = tx.Commit()
//	box.Wake()
//
// How long an old value can be served after the commit: until the relay of this process has deleted it, which Wake
// starts at once; if this process dies, until another process's relay looks, which is at most Options.Interval; if none
// runs, until one is started. Backlog says how far behind they are. A reader that must not see an old value at all uses
// cache.Fresh, or deletes the key itself before it acknowledges the write.
package invalidate

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/outbox"
)

// Dialect is the database's SQL.
type Dialect uint8

const (
	SQLite Dialect = iota
	PostgreSQL
	MySQL // and MariaDB 10.6 or later
)

// Region is one cache that is told of changes: a data center's. Each has a table of its own, so that one that cannot be
// reached does not hold the others up, and gets all of its invalidations when it is back.
type Region struct {
	// Name is part of the table's name: lower-case letters, digits and _.
	Name string
	// Drop deletes a key, and returns nil when that is confirmed: Drop of a cache.Tiered. It is called until then, so
	// it must do no harm to delete a key again, and several keys at the same time; keys that fail do not hold the
	// others up. Nil only writes: the region relays for itself, on a database connection of its own.
	Drop func(ctx context.Context, key string) error
}

// Options configure an [Outbox]. Regions is required.
type Options struct {
	Dialect Dialect
	Regions []Region
	// Table is the prefix of the tables' names. Default "cache_invalidations".
	Table string
	// Interval is how often the relays look without being woken. Default 1 s.
	Interval time.Duration
	// Batch is how many keys a relay deletes at once. Default 100.
	Batch int
}

// Outbox is the tables of keys on their way to be deleted. It is safe for concurrent use; any number of processes may
// relay.
type Outbox struct {
	db      *sql.DB
	regions []region
}

type region struct {
	Region
	table *outbox.Table
	relay *outbox.Relay // nil where Drop is
}

// New returns an outbox; it does not touch the database, see [Outbox.Migrate].
func New(db *sql.DB, o Options) (*Outbox, error) {
	if db == nil {
		return nil, errors.New("invalidate: the database is nil")
	}
	if len(o.Regions) == 0 {
		return nil, errors.New("invalidate: Options.Regions is empty")
	}
	if o.Table == "" {
		o.Table = "cache_invalidations"
	}
	b := &Outbox{db: db}
	seen := map[string]bool{}
	for _, r := range o.Regions {
		if r.Name == "" || seen[r.Name] {
			return nil, fmt.Errorf("invalidate: Options.Regions has %q twice, or without a name", r.Name)
		}
		seen[r.Name] = true
		t, err := outbox.New(o.Table+"_"+r.Name, outbox.Dialect(o.Dialect))
		if err != nil {
			return nil, fmt.Errorf("invalidate: Options.Table or region %q: %w", r.Name, err)
		}
		x := region{Region: r, table: t}
		if r.Drop != nil {
			if x.relay, err = outbox.NewPartialRelay(db, t, o.Interval, o.Batch, x.deliver); err != nil {
				return nil, fmt.Errorf("invalidate: %w", err)
			}
		}
		b.regions = append(b.regions, x)
	}
	return b, nil
}

// atOnce is how many keys a relay deletes at the same time: one whose server does not answer costs its timeout.
const atOnce = 8

// deliver deletes each key once, however often it was written. Keys that cannot be deleted, such as those of one server
// among many, stay.
func (r *region) deliver(ctx context.Context, rows []outbox.Row) (done []outbox.Row, err error) {
	byKey := map[string][]outbox.Row{}
	for _, row := range rows {
		byKey[string(row.Payload)] = append(byKey[string(row.Payload)], row)
	}
	keys := make(chan string, len(byKey))
	for key := range byKey {
		keys <- key
	}
	close(keys)
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := 0
	for range min(atOnce, len(byKey)) {
		wg.Go(func() {
			for key := range keys {
				derr := ctx.Err()
				if derr == nil {
					derr = r.Drop(ctx, key)
				}
				mu.Lock()
				if derr == nil {
					done = append(done, byKey[key]...)
				} else if failed++; err == nil {
					err = fmt.Errorf("invalidate: %s: key %q: %w", r.Name, key, derr)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err != nil {
		err = fmt.Errorf("%w (%w: %d keys)", err, outbox.ErrStays, failed)
	}
	return done, err
}

// Migrate creates the tables. Safe to call from every server at every start.
func (b *Outbox) Migrate(ctx context.Context) error {
	for _, r := range b.regions {
		if err := r.table.Migrate(ctx, b.db); err != nil {
			return fmt.Errorf("invalidate: %w", err)
		}
	}
	return nil
}

// Add writes keys in the caller's transaction (a *sql.Tx, or a *sql.Conn that is in one), for all regions.
func (b *Outbox) Add(ctx context.Context, tx outbox.Execer, keys ...string) error {
	for _, r := range b.regions {
		for _, k := range keys {
			if err := r.table.Add(ctx, tx, rand.Text(), []byte(k)); err != nil {
				return fmt.Errorf("invalidate: %w", err)
			}
		}
	}
	return nil
}

// Wake tells the relays of this process, after a commit, not to wait for their interval.
func (b *Outbox) Wake() {
	for _, r := range b.regions {
		if r.relay != nil {
			r.relay.Wake()
		}
	}
}

// Relay deletes what has been committed, in all regions with a Drop, and returns how many rows that were. A region that
// fails does not keep the others from going on.
func (b *Outbox) Relay(ctx context.Context) (n int, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, r := range b.regions {
		if r.relay == nil {
			continue
		}
		wg.Go(func() {
			moved, err := r.relay.Once(ctx)
			mu.Lock()
			defer mu.Unlock()
			n, errs = n+moved, append(errs, err)
		})
	}
	wg.Wait()
	return n, errors.Join(errs...)
}

// Run relays all regions until ctx ends, and then returns nil. Errors are reported (report may be nil) and tried again.
func (b *Outbox) Run(ctx context.Context, report func(error)) error {
	var wg sync.WaitGroup
	for _, r := range b.regions {
		if r.relay != nil {
			wg.Go(func() { _ = r.relay.Run(ctx, report) }) // it returns nil
		}
	}
	wg.Wait()
	return nil
}

// Backlog is how many keys wait for a region, and for how long the oldest: how old a value may be that its cache
// serves.
func (b *Outbox) Backlog(ctx context.Context, name string) (n int, oldest time.Duration, err error) {
	for _, r := range b.regions {
		if r.Name == name {
			n, at, err := r.table.Backlog(ctx, b.db)
			if n > 0 {
				oldest = time.Since(at)
			}
			return n, oldest, err
		}
	}
	return 0, 0, fmt.Errorf("invalidate: there is no region %q", name)
}
