package sqlstore

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/session"
)

// Load implements [session.Store].
func (s *Store) Load(ctx context.Context, k session.Key, now time.Time) (r session.Record, err error) {
	err = again(ctx, func() error { r, err = s.load(ctx, k, now); return err })
	return r, err
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, k session.Key, r session.Record) error {
	return again(ctx, func() error { return s.create(ctx, k, r) })
}

// Update implements [session.Store].
func (s *Store) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	return again(ctx, func() error { return s.update(ctx, k, r, now) })
}

// Rotate implements [session.Store].
func (s *Store) Rotate(ctx context.Context, k, next session.Key, r session.Record, now time.Time,
	grace time.Duration) error {
	return again(ctx, func() error { return s.rotate(ctx, k, next, r, now, grace) })
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, k session.Key) error {
	return again(ctx, func() error { return s.delete(ctx, k) })
}

const attempts = 8

// again repeats what the database has undone as a whole because of others: a deadlock, a serialization failure. That is
// safe, and the caller's request need not fail for it.
func again(ctx context.Context, f func() error) error {
	wait := backoff.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond}
	for attempt := 0; ; attempt++ {
		err := f()
		if err == nil || attempt == attempts || !undone(err) {
			return err
		}
		if backoff.Sleep(ctx, wait.Delay(attempt)) != nil {
			return err
		}
	}
}

// undone knows the SQLSTATEs by the drivers' method (pgx, lib/pq) or, of go-sql-driver/mysql, by their place in the
// text.
func undone(err error) bool {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState() == "40001" || s.SQLState() == "40P01"
	}
	return strings.Contains(err.Error(), "Error 1213 (40001)") || strings.Contains(err.Error(), "Error 1020 (HY000)")
}
