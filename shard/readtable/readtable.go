// Package readtable keeps a table for reading beside the sharded ones: orders by product where orders are sharded by
// customer, so that a list needs no scatter. A transaction says what it changed, in an outbox on its own shard; a relay
// applies that to the table, which may be in any database.
//
// The table is behind by the relay's lag (Table.Backlog) and loses nothing: changes are applied at least once, and a
// change is left out if the table has a newer version of its row. So changes may arrive twice, or in another order than
// they were made, as they do when a key moves to another shard.
package readtable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/outbox"
	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/shard"
)

// Table is the outboxes of one table for reading, and the relays that empty them. All methods are safe for concurrent
// use; any number of processes may relay.
type Table struct {
	c      *shard.Cluster
	o      Options
	table  *outbox.Table
	warn   *warn.Log
	errors warn.Tally // of relays

	mu     sync.Mutex // guards relays
	relays map[shard.ID]*outbox.Relay
}

// Options configure a Table. Apply is required.
type Options struct {
	// Outbox is the name of the outbox table on every shard. Empty means "tk_read_outbox". Each Table needs one of
	// its own.
	Outbox string
	// Apply brings changes into the table and returns nil when they are there: UpsertInto, or the application's own. It
	// must not replace a row by one with a lower version.
	Apply func(ctx context.Context, changes []Change) error
	// Interval is how often each relay looks without being woken. Zero means 1 s.
	Interval time.Duration
	// Batch is how many changes are applied at once. Zero means 100.
	Batch int
	// Logger gets a warning, at most once a minute and shard, while a relay fails. nil means slog.Default().
	Logger *slog.Logger
}

// Change is a row of the table for reading as it is from a version on.
type Change struct {
	// Key of the row.
	Key string `json:"key"`
	// Version grows with every change of the row: a counter in it, or an id of package ids.
	Version int64 `json:"version"`
	// Deleted rows are kept as such, so that an older change does not bring them back.
	Deleted bool `json:"deleted,omitempty"`
	// Data is the row, as Apply understands it.
	Data []byte `json:"data,omitempty"`
}

// New describes the outboxes on the shards of c. Call Migrate before the first Add.
func New(c *shard.Cluster, o Options) (*Table, error) {
	d, err := outboxDialect(c.Dialect())
	if err != nil {
		return nil, err
	}
	if o.Apply == nil {
		return nil, errors.New("readtable: Options.Apply is nil")
	}
	if o.Outbox == "" {
		o.Outbox = "tk_read_outbox"
	}
	t, err := outbox.New(o.Outbox, d)
	if err != nil {
		return nil, fmt.Errorf("readtable: Options.Outbox: %w", err)
	}
	r := &Table{c: c, o: o, table: t, warn: warn.New(o.Logger), relays: map[shard.ID]*outbox.Relay{}}
	for _, sh := range c.Shards() { // also finds wrong options
		if _, err := r.relay(sh); err != nil {
			return nil, fmt.Errorf("readtable: Options: %w", err)
		}
	}
	return r, nil
}

func outboxDialect(d shard.Dialect) (outbox.Dialect, error) {
	switch d.Name() {
	case "postgres":
		return outbox.PostgreSQL, nil
	case "sqlite":
		return outbox.SQLite, nil
	case "mariadb":
		return outbox.MySQL, nil
	}
	return 0, fmt.Errorf("%w: a Dialect is needed", shard.ErrPreflight)
}

// relay returns that of a shard; shards may be added while it runs.
func (r *Table) relay(sh shard.Shard) (*outbox.Relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.relays[sh.ID]; have != nil {
		return have, nil
	}
	x, err := outbox.NewRelay(sh.DB, r.table, r.o.Interval, r.o.Batch, r.deliver)
	if err == nil {
		r.relays[sh.ID] = x
	}
	return x, err
}

func (r *Table) deliver(ctx context.Context, rows []outbox.Row) error {
	changes := make([]Change, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row.Payload, &changes[i]); err != nil {
			return fmt.Errorf("readtable: row %d: %w", row.ID, err)
		}
	}
	return usercode.Run(func() error { return r.o.Apply(ctx, changes) })
}

// Migrate creates the outbox on every shard that the cluster knows. Call it again after AddShard.
func (r *Table) Migrate(ctx context.Context) error {
	for _, sh := range r.c.Shards() {
		if err := r.table.Migrate(ctx, sh.DB); err != nil {
			return fmt.Errorf("readtable: %s: %w", sh.ID, err)
		}
	}
	return nil
}

// Add says in a transaction of [shard.Cluster.Tx] what it changed.
func (r *Table) Add(ctx context.Context, tx *shard.Tx, changes ...Change) error {
	for _, ch := range changes {
		b, err := json.Marshal(ch)
		if err != nil {
			return fmt.Errorf("readtable: %w", err)
		}
		if err := r.table.Add(ctx, tx.Tx, fmt.Sprintf("%.200s@%d", ch.Key, ch.Version), b); err != nil {
			return fmt.Errorf("readtable: %w", err)
		}
	}
	return nil
}

// Wake tells the relays of this process, after a commit, not to wait for their interval.
func (r *Table) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.relays {
		x.Wake()
	}
}

// Relay applies what has been committed on all shards, and returns how many changes. A shard that fails does not keep
// the others from going on.
func (r *Table) Relay(ctx context.Context) (n int, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, sh := range r.c.Shards() {
		x, err := r.relay(sh)
		if err != nil {
			return n, err
		}
		wg.Go(func() {
			moved, err := x.Once(ctx)
			if err != nil {
				err = fmt.Errorf("readtable: %s: %w", sh.ID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			n, errs = n+moved, append(errs, err)
		})
	}
	wg.Wait()
	return n, errors.Join(errs...)
}

// Run relays until ctx ends, and then returns nil; shards that are added meanwhile are relayed too. Errors are logged
// and tried again.
func (r *Table) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	running := map[shard.ID]bool{}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for ctx.Err() == nil {
		for _, sh := range r.c.Shards() {
			if running[sh.ID] {
				continue
			}
			x, err := r.relay(sh)
			if err != nil { // the options were checked before
				continue
			}
			running[sh.ID] = true
			wg.Go(func() {
				_ = x.Run(ctx, func(err error) {
					r.errors.Add(err)
					r.warn.Warn("relay "+string(sh.ID),
						"shard read table: changes are not applied; they are tried again",
						"shard", string(sh.ID), "outbox", r.o.Outbox, "err", err)
				})
			}) // it returns nil
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	wg.Wait()
	return nil
}

// Stats are counters since New.
type Stats struct {
	Errors      uint64 `metric:"relay_errors_total,counter,Attempts to apply changes that failed"`
	LastError   string
	LastErrorAt time.Time
}

// Stats returns the counters. It is cheap and safe for concurrent use.
func (r *Table) Stats() Stats {
	var s Stats
	s.Errors, s.LastError, s.LastErrorAt = r.errors.Load()
	return s
}

// Backlog is how many changes wait on all shards, and for how long the oldest: how far the table is behind.
func (r *Table) Backlog(ctx context.Context) (n int, oldest time.Duration, err error) {
	for _, sh := range r.c.Shards() {
		x, err := r.relay(sh)
		if err != nil {
			return n, oldest, err
		}
		waiting, age, err := x.Backlog(ctx)
		if err != nil {
			return n, oldest, fmt.Errorf("readtable: %s: %w", sh.ID, err)
		}
		n, oldest = n+waiting, max(oldest, age)
	}
	return n, oldest, nil
}
