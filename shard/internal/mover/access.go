package mover

import (
	"context"
	"database/sql"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// Access opens transactions that the guards of a shard let pass.
type Access struct {
	Dialect sqldb.Dialect
	// Token is the mover's. A shard that has seen a higher one refuses with sqldb.ErrMoverLost.
	Token uint64
	// LockTimeout bounds each wait for a lock.
	LockTimeout time.Duration
	// Retry spaces the attempts after a lock timeout.
	Retry backoff.Policy
}

// In runs f in a transaction on a shard. It repeats f after lock timeouts and serialization failures.
func (a Access) In(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	return RetryTransient(ctx, a.Dialect, a.Retry, func() error {
		tx, err := a.Dialect.Begin(ctx, db, a.Token, a.LockTimeout)
		if err != nil {
			return err
		}
		if err = f(tx); err == nil {
			err = a.Dialect.Commit(ctx, tx)
		}
		if err != nil {
			a.Dialect.Abort(tx)
		}
		return err
	})
}

// RetryTransient repeats what failed for a reason that passes, such as a lock timeout, up to 50 times with growing
// pauses, in which writers get the lock.
func RetryTransient(ctx context.Context, d sqldb.Errors, p backoff.Policy, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || !d.IsRetryable(err) || n >= 50 {
			return err
		}
		if err := backoff.Sleep(ctx, p.Delay(n)); err != nil {
			return err
		}
	}
}

// Describe reads the tables on one shard.
func Describe(ctx context.Context, tx *sql.Tx, d sqldb.Dialect, specs []sqldb.TableSpec) ([]*sqldb.Table, error) {
	var tables []*sqldb.Table
	for _, t := range specs {
		info, err := d.Describe(ctx, tx, t)
		if err != nil {
			return nil, err
		}
		tables = append(tables, info)
	}
	return tables, nil
}
