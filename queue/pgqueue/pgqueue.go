// Package pgqueue runs package queue on PostgreSQL, for services that have one and want their jobs in it: several
// machines share the queue, and Enqueue publishes in the same transaction as the rows that a job is about.
//
//	pool, err := pgxpool.New(ctx, dsn)
//	q, err := pgqueue.Open(ctx, pool, pgqueue.Options{})
//	g, err := q.Group(ctx, "mail", "workers", queue.GroupOptions{})
//
// It does all that the embedded engine does: order by key, priorities, delays, TTL, dedupe, dead letters. A message is
// a row for each group of its topic. A consumer takes rows with FOR UPDATE SKIP LOCKED and writes a token and the end
// of its lease into them; nothing stays locked while it works. Times are the server's. Waiting consumers are woken by
// LISTEN/NOTIFY, and look once a second in case that is lost.
//
// A publish, a fetch and a settlement are one round trip each. PostgreSQL groups the commits of concurrent publishers
// by itself; notifications are sent after the commit and not in it, because NOTIFY takes a lock that would put the
// commits in a row.
package pgqueue

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tierkit/tierkit/queue"
)

// Options configure the engine. The zero value is good.
type Options struct {
	// Table is the name of the messages' table and the prefix of the others; it may have a schema. Default
	// "tierkit_queue". Queues with different tables are independent.
	Table string
	// DedupeWindow is how long a Message.ID is remembered. Default 10 min, negative: not at all.
	DedupeWindow time.Duration
	// Poll is how often a waiting consumer looks though nobody has notified it. Default 1 s.
	Poll time.Duration
}

var tableName = regexp.MustCompile(`^([a-z_][a-z0-9_]*\.)?[a-z_][a-z0-9_]{0,40}$`)

// Open creates the tables where they are missing and returns a queue on a pool, which it does not close. The queue
// needs one connection of its own beside the pool's, for notifications.
func Open(ctx context.Context, pool *pgxpool.Pool, o Options) (*queue.Queue, error) {
	if o.Table == "" {
		o.Table = "tierkit_queue"
	}
	if !tableName.MatchString(o.Table) {
		return nil, fmt.Errorf("pgqueue: Options.Table %q: want lower-case letters, digits and _, perhaps after a schema and a dot", o.Table)
	}
	if o.DedupeWindow == 0 {
		o.DedupeWindow = 10 * time.Minute
	}
	if o.Poll < 0 {
		return nil, fmt.Errorf("pgqueue: Options.Poll is %v, must not be negative", o.Poll)
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	d := &driver{pool: pool, o: o, sql: newStatements(o.Table), groups: map[int32]*group{}, told: map[string]bool{},
		tell: make(chan struct{}, 1)}
	if err := d.prepare(ctx); err != nil {
		return nil, fmt.Errorf("pgqueue: %w", err)
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.tasks.Go(d.listen)
	d.tasks.Go(d.notify)
	d.tasks.Go(d.sweep)
	return queue.New(d), nil
}

type driver struct {
	pool *pgxpool.Pool
	o    Options
	sql  statements
	caps queue.Caps

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	groups map[int32]*group
	told   map[string]bool // topics to notify
	tell   chan struct{}

	published, duplicates, delivered, acked, retried, expired, dead, ttl atomic.Int64
}

// prepare creates the tables, one process at a time, and asks what the server promises.
func (d *driver) prepare(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, d.lockOf("schema", "")); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, d.sql.schema)
		return err
	})
	if err != nil {
		return err
	}
	var fsync, commit string
	if err := d.pool.QueryRow(ctx, `select current_setting('fsync'), current_setting('synchronous_commit')`).Scan(
		&fsync, &commit); err != nil {
		return err
	}
	d.caps = queue.Caps{MaxMessage: 512 << 20, DedupeWindow: max(0, d.o.DedupeWindow)}
	switch {
	case fsync == "off":
		d.caps.Weaker = "fsync is off: a crash of the machine may lose everything"
	case commit == "off":
		d.caps.Weaker = "synchronous_commit is off: a crash of the server may lose acknowledged messages"
	}
	return nil
}

// lockOf names an advisory lock.
func (d *driver) lockOf(what, name string) int64 {
	h := xxhash.New()
	for _, s := range []string{"tierkit/pgqueue", d.o.Table, what, name} {
		_, _ = h.WriteString(s)
		_, _ = h.Write([]byte{0})
	}
	return int64(h.Sum64())
}

func (d *driver) Caps() queue.Caps { return d.caps }

// Stats counts what went through this process; the groups' part is some seconds old.
func (d *driver) Stats() queue.Stats {
	s := queue.Stats{Published: d.published.Load(), Duplicates: d.duplicates.Load(), Delivered: d.delivered.Load(),
		Acked:   d.acked.Load(),
		Retried: d.retried.Load(), LeaseExpired: d.expired.Load(), DeadLettered: d.dead.Load(),
		TTLExpired: d.ttl.Load()}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.groups {
		l := g.last
		s.Groups = append(s.Groups, queue.GroupStats{Topic: g.topic, Group: g.name, Ready: int64(l.Ready),
			Delayed:  int64(l.Delayed),
			InFlight: int64(l.InFlight), Dead: int64(l.Dead), OldestAge: l.OldestAge.Seconds()})
	}
	return s
}

func (d *driver) Close() error {
	d.cancel()
	d.tasks.Wait()
	return nil
}
