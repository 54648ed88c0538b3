package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/outbox"
	"github.com/tierkit/tierkit/internal/sqltable"
)

// ReadTable keeps a table for reading beside the sharded ones: orders by product where orders are sharded by customer,
// so that a list needs no scatter. A transaction says what it changed, in an outbox on its own shard; a relay applies
// that to the table, which may be in any database.
//
// The table is behind by the relay's lag (Backlog) and never lost: changes are applied at least once, and a change is
// left out if the table has a newer version of its row. So they may arrive twice, or in another order than they were
// made, as they do when a key moves to another shard. All methods are safe for concurrent use; any number of processes
// may relay.
type ReadTable struct {
	c     *Cluster
	o     ReadTableOptions
	table *outbox.Table

	mu     sync.Mutex // guards relays
	relays map[ID]*outbox.Relay
}

// ReadTableOptions configure a ReadTable. Apply is required.
type ReadTableOptions struct {
	// Outbox is the name of the outbox table on every shard. Default "tk_read_outbox"; one for each ReadTable.
	Outbox string
	// Apply brings changes into the table and returns nil when they are there: UpsertInto, or the application's own. It
	// must not replace a row by one with a lower version.
	Apply func(ctx context.Context, changes []RowChange) error
	// Interval is how often each relay looks without being woken. Default 1 s.
	Interval time.Duration
	// Batch is how many changes are applied at once. Default 100.
	Batch int
}

// RowChange is a row of the table for reading as it is from a version on.
type RowChange struct {
	// Key of the row.
	Key string `json:"key"`
	// Version grows with every change of the row: a counter in it, or one of IDs.
	Version int64 `json:"version"`
	// Deleted rows are kept as such, so that an older change does not bring them back.
	Deleted bool `json:"deleted,omitempty"`
	// Data is the row, as Apply understands it.
	Data []byte `json:"data,omitempty"`
}

// NewReadTable describes the outboxes; call Migrate before the first Add.
func (c *Cluster) NewReadTable(o ReadTableOptions) (*ReadTable, error) {
	if c.opts.Dialect == nil {
		return nil, fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	if o.Apply == nil {
		return nil, errors.New("shard: ReadTableOptions.Apply is nil")
	}
	if o.Outbox == "" {
		o.Outbox = "tk_read_outbox"
	}
	t, err := outbox.New(o.Outbox, c.outboxDialect())
	if err != nil {
		return nil, fmt.Errorf("shard: ReadTableOptions.Outbox: %w", err)
	}
	r := &ReadTable{c: c, o: o, table: t, relays: map[ID]*outbox.Relay{}}
	for _, sh := range c.known() { // also finds wrong options
		if _, err := r.relay(sh); err != nil {
			return nil, fmt.Errorf("shard: ReadTableOptions: %w", err)
		}
	}
	return r, nil
}

func (c *Cluster) outboxDialect() outbox.Dialect {
	switch c.opts.Dialect.Name() {
	case "postgres":
		return outbox.PostgreSQL
	case "sqlite":
		return outbox.SQLite
	}
	return outbox.MySQL
}

// relay returns that of a shard; shards may be added while it runs.
func (r *ReadTable) relay(sh *shardState) (*outbox.Relay, error) {
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

func (r *ReadTable) deliver(ctx context.Context, rows []outbox.Row) error {
	changes := make([]RowChange, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal(row.Payload, &changes[i]); err != nil {
			return fmt.Errorf("shard: read table: row %d: %w", row.ID, err)
		}
	}
	return r.o.Apply(ctx, changes)
}

// Migrate creates the outbox on every shard that the cluster knows. Call it again after AddShard.
func (r *ReadTable) Migrate(ctx context.Context) error {
	for _, sh := range r.c.known() {
		if err := r.table.Migrate(ctx, sh.DB); err != nil {
			return fmt.Errorf("shard: read table: %s: %w", sh.ID, err)
		}
	}
	return nil
}

// Add says in a transaction of [Cluster.Tx] what it changed.
func (r *ReadTable) Add(ctx context.Context, tx *Tx, changes ...RowChange) error {
	for _, ch := range changes {
		b, err := json.Marshal(ch)
		if err != nil {
			return fmt.Errorf("shard: read table: %w", err)
		}
		if err := r.table.Add(ctx, tx.Tx, fmt.Sprintf("%.200s@%d", ch.Key, ch.Version), b); err != nil {
			return fmt.Errorf("shard: read table: %w", err)
		}
	}
	return nil
}

// Wake tells the relays of this process, after a commit, not to wait for their interval.
func (r *ReadTable) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.relays {
		x.Wake()
	}
}

// Relay applies what has been committed on all shards, and returns how many changes. A shard that fails does not keep
// the others from going on.
func (r *ReadTable) Relay(ctx context.Context) (n int, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, sh := range r.c.known() {
		x, err := r.relay(sh)
		if err != nil {
			return n, err
		}
		wg.Go(func() {
			moved, err := x.Once(ctx)
			if err != nil {
				err = fmt.Errorf("shard: read table: %s: %w", sh.ID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			n, errs = n+moved, append(errs, err)
		})
	}
	wg.Wait()
	return n, errors.Join(errs...)
}

// Run relays until ctx ends, and then returns nil; shards that are added meanwhile are relayed too. Errors are reported
// (report may be nil) and tried again.
func (r *ReadTable) Run(ctx context.Context, report func(error)) error {
	var wg sync.WaitGroup
	running := map[ID]bool{}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for ctx.Err() == nil {
		for _, sh := range r.c.known() {
			if running[sh.ID] {
				continue
			}
			x, err := r.relay(sh)
			if err != nil { // the options were checked before
				continue
			}
			running[sh.ID] = true
			wg.Go(func() { _ = x.Run(ctx, report) }) // it returns nil
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	wg.Wait()
	return nil
}

// Backlog is how many changes wait on all shards, and for how long the oldest: how far the table is behind.
func (r *ReadTable) Backlog(ctx context.Context) (n int, oldest time.Duration, err error) {
	for _, sh := range r.c.known() {
		x, err := r.relay(sh)
		if err != nil {
			return n, oldest, err
		}
		waiting, age, err := x.Backlog(ctx)
		if err != nil {
			return n, oldest, fmt.Errorf("shard: read table: %s: %w", sh.ID, err)
		}
		n, oldest = n+waiting, max(oldest, age)
	}
	return n, oldest, nil
}

// UpsertInto is a ReadTableOptions.Apply for a table (row_key, version, deleted, data) in a database, which it creates:
// one statement a change, which leaves newer rows alone. The dialect is that database's.
func UpsertInto(ctx context.Context, db *sql.DB, d Dialect, table string) (func(context.Context, []RowChange) error,
	error) {
	if err := sqltable.CheckName(table); err != nil {
		return nil, fmt.Errorf("shard: UpsertInto: %w", err)
	}
	text, blob := "text", "blob"
	upsert := `insert into {t} (row_key, version, deleted, data) values (?, ?, ?, ?) on conflict (row_key) do update set version = excluded.version, deleted = excluded.deleted, data = excluded.data where excluded.version > {t}.version`
	switch d.Name() {
	case "postgres":
		blob = "bytea"
	case "sqlite":
	default: // assignments are made from left to right: the version last
		text, blob = "varchar(255)", "longblob"
		upsert = `insert into {t} (row_key, version, deleted, data) values (?, ?, ?, ?) on duplicate key update deleted = if(values(version) > version, values(deleted), deleted), data = if(values(version) > version, values(data), data), version = greatest(version, values(version))`
	}
	if err := createTable(ctx, db, fmt.Sprintf(
		`%s (row_key %s primary key, version bigint not null, deleted int not null, data %s not null)`, table, text,
		blob)); err != nil {
		return nil, fmt.Errorf("shard: UpsertInto %s: %w", table, err)
	}
	upsert = sqltable.Statement(upsert, table, d.Name() == "postgres")
	return func(ctx context.Context, changes []RowChange) error {
		for _, ch := range changes {
			deleted := 0
			if ch.Deleted {
				deleted = 1
			}
			data := ch.Data
			if data == nil {
				data = []byte{}
			}
			if _, err := db.ExecContext(ctx, upsert, ch.Key, ch.Version, deleted, data); err != nil {
				return fmt.Errorf("shard: read table %s: key %q: %w", table, ch.Key, err)
			}
		}
		return nil
	}, nil
}
