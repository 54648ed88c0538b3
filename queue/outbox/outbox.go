// Package outbox publishes to a queue from within a database transaction: the message exists if and only if the
// transaction commits.
//
//	tx, err := db.BeginTx(ctx, nil)
//	...
//	_, err = tx.ExecContext(ctx, "INSERT INTO orders ...")
//	err = box.Enqueue(ctx, tx, queue.Message{Topic: "mail", Kind: "confirm", Body: body})
//	err = tx.Commit()
//
// A relay ([Outbox.Run]) moves committed messages to the queue, in the order of their ids also where several servers
// relay, usually within a few milliseconds of [Outbox.Wake]. A crash between publishing and deleting a row repeats the
// message with the same Message.ID, which the queue's dedupe window drops. A message that the queue will never take,
// such as one that is too large, stays in the table and is reported; those behind it go on.
package outbox

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	table "github.com/tierkit/tierkit/internal/outbox"
	"github.com/tierkit/tierkit/queue"
)

// Dialect is the database's SQL.
type Dialect uint8

const (
	SQLite Dialect = iota
	PostgreSQL
	MySQL // and MariaDB 10.6 or later
)

// Options configure an [Outbox]. The zero value is good for SQLite.
type Options struct {
	Dialect Dialect
	// Table is the table's name. Default "queue_outbox".
	Table string
	// Interval is how often the relay looks for messages that nobody woke it for. Default 1 s.
	Interval time.Duration
	// Batch is how many messages the relay moves at once. Default 100.
	Batch int
}

// Outbox is a table of messages on their way to a queue. It is safe for concurrent use; any number of processes may
// relay.
type Outbox struct {
	db    *sql.DB
	q     *queue.Queue
	table *table.Table
	relay *table.Relay
}

// New returns an outbox; it does not touch the database, see [Outbox.Migrate].
func New(db *sql.DB, q *queue.Queue, o Options) (*Outbox, error) {
	if db == nil || q == nil {
		return nil, errors.New("outbox: New needs a database and a queue")
	}
	if o.Table == "" {
		o.Table = "queue_outbox"
	}
	t, err := table.NewOrdered(o.Table, table.Dialect(o.Dialect))
	if err != nil {
		return nil, err
	}
	b := &Outbox{db: db, q: q, table: t}
	b.relay, err = table.NewPartialRelay(db, t, o.Interval, o.Batch, b.publish)
	return b, err
}

// Migrate creates the table. Safe to call from every server at every start.
func (b *Outbox) Migrate(ctx context.Context) error { return b.table.Migrate(ctx, b.db) }

// Enqueue writes messages in the caller's transaction (a *sql.Tx, or a *sql.Conn that is in one). A message without ID
// gets a random one. Its delay and TTL count from when the relay publishes it.
func (b *Outbox) Enqueue(ctx context.Context, tx table.Execer, msgs ...queue.Message) error {
	for _, m := range msgs {
		if m.ID == "" {
			m.ID = rand.Text()
		}
		if most := b.q.Caps().MaxMessage; m.Priority > 9 || m.TTL < 0 || most > 0 && len(m.Body) > most {
			return fmt.Errorf("outbox: priority %d, TTL %v or %d bytes of a message: the queue would not take it",
				m.Priority, m.TTL, len(m.Body))
		}
		data, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("outbox: encode: %w", err)
		}
		if err := b.table.Add(ctx, tx, m.ID, data); err != nil {
			return err
		}
	}
	return nil
}

// Wake tells the relay of this process, after a commit, not to wait for its interval.
func (b *Outbox) Wake() { b.relay.Wake() }

// Relay moves what has been committed, and returns how many messages.
func (b *Outbox) Relay(ctx context.Context) (moved int, err error) { return b.relay.Once(ctx) }

// publish goes on behind a message that the queue will never take, and stops where it may take it later.
func (b *Outbox) publish(ctx context.Context, rows []table.Row) (done []table.Row, err error) {
	for _, r := range rows {
		var m queue.Message
		perr := json.Unmarshal(r.Payload, &m)
		never := perr != nil
		if perr == nil {
			_, perr = b.q.Publish(ctx, m)
			never = errors.Is(perr, queue.ErrTooLarge) || errors.Is(perr, queue.ErrUnsupported)
		}
		switch {
		case perr == nil:
			done = append(done, r)
		case !never:
			return done, fmt.Errorf("outbox: row %d: %w", r.ID, perr)
		case err == nil:
			err = fmt.Errorf("outbox: row %d: %w (%w)", r.ID, perr, table.ErrStays)
		}
	}
	return done, err
}

// Run relays until ctx ends, and then returns nil. Errors are reported (report may be nil) and tried again.
func (b *Outbox) Run(ctx context.Context, report func(error)) error { return b.relay.Run(ctx, report) }

// Backlog is how many messages wait in the table, and for how long the oldest.
func (b *Outbox) Backlog(ctx context.Context) (n int, oldest time.Duration, err error) {
	return b.relay.Backlog(ctx)
}
