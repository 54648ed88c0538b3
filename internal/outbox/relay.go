package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Relay hands on what transactions have committed to a table. It is safe for concurrent use; any number of processes
// may relay one table.
type Relay struct {
	table    *Table
	db       *sql.DB
	interval time.Duration
	batch    int
	deliver  Deliver
	wake     chan struct{}
}

// NewRelay takes the options of the packages above: an interval of 0 means 1 s, a batch of 0 means 100. deliver takes
// all rows or none.
func NewRelay(db *sql.DB, t *Table, interval time.Duration, batch int,
	deliver func(context.Context, []Row) error) (*Relay, error) {
	return NewPartialRelay(db, t, interval, batch, func(ctx context.Context, rows []Row) ([]Row, error) {
		if err := deliver(ctx, rows); err != nil {
			return nil, err
		}
		return rows, nil
	})
}

// NewPartialRelay is NewRelay where some rows may be handed on and others not.
func NewPartialRelay(db *sql.DB, t *Table, interval time.Duration, batch int, deliver Deliver) (*Relay, error) {
	if db == nil {
		return nil, errors.New("outbox: the database is nil")
	}
	if interval == 0 {
		interval = time.Second
	}
	if interval < 0 {
		return nil, fmt.Errorf("outbox: Options.Interval is %v", interval)
	}
	if batch == 0 {
		batch = 100
	}
	if batch < 1 || batch > 1000 {
		return nil, fmt.Errorf("outbox: Options.Batch is %d, must be 1 to 1000", batch)
	}
	return &Relay{table: t, db: db, interval: interval, batch: batch, deliver: deliver, wake: make(chan struct{}, 1)},
		nil
}

// Wake tells the relay of this process not to wait for its interval.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Once hands on what is there, and returns how many rows. Rows that stay do not keep those behind them.
func (r *Relay) Once(ctx context.Context) (moved int, stay error) {
	after := int64(0)
	for {
		p, err := r.table.drain(ctx, r.db, after, r.batch, r.deliver)
		moved += p.moved
		switch {
		case err == nil:
		case !errors.Is(err, ErrStays) || ctx.Err() != nil:
			return moved, err
		default:
			after = p.last // the next pass begins at the first again
			if stay == nil {
				stay = err
			}
		}
		if p.read < r.batch {
			return moved, stay
		}
	}
}

// Run relays until ctx ends, and then returns nil. Errors are reported (report may be nil) and tried again.
func (r *Relay) Run(ctx context.Context, report func(error)) error {
	failures := 0
	for {
		_, err := r.Once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := r.interval
		if err != nil {
			if report != nil {
				report(err)
			}
			wait = backoff.Policy{Base: 50 * time.Millisecond, Max: 10 * time.Second}.Delay(failures)
			failures++
		} else {
			failures = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-r.wake:
		}
		t.Stop()
	}
}

// Backlog is how many rows wait in the table, and for how long the oldest.
func (r *Relay) Backlog(ctx context.Context) (n int, oldest time.Duration, err error) {
	n, at, err := r.table.Backlog(ctx, r.db)
	if n > 0 {
		oldest = time.Since(at)
	}
	return n, oldest, err
}
