// Package sqlstore keeps sessions in a table of PostgreSQL, MariaDB/MySQL or SQLite.
//
// Every operation is one statement on one row, except Rotate (one transaction of three). Expired rows count as missing
// at once, and are removed by [Store.Cleanup].
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tierkit/tierkit/internal/sqltable"
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
	// Table is the table's name: letters, digits and underscores. Default "sessions".
	Table string
}

// Store is a [session.Store] and [session.UserIndex] in SQL. It is safe for concurrent use and does not close the
// database.
type Store struct {
	db *sql.DB
	o  Options
	q  queries
}

type queries struct {
	load, touch, insert, update, version, purge, move, alias, remove, removeAlias, list,
	cleanup string
}

// New returns a store; it does not touch the database, see [Store.Migrate].
func New(db *sql.DB, o Options) (*Store, error) {
	if db == nil {
		return nil, errors.New("sqlstore: db is nil")
	}
	if o.Table == "" {
		o.Table = "sessions"
	}
	if err := sqltable.CheckName(o.Table); err != nil {
		return nil, fmt.Errorf("sqlstore: Options.Table: %w", err)
	}
	if o.Dialect > MySQL {
		return nil, fmt.Errorf("sqlstore: Options.Dialect is %d, not a dialect", o.Dialect)
	}
	s := &Store{db: db, o: o}
	// A row is a record, or, with alias set, a grace key. deadline is what Record.Deadline says, for the index.
	const cols = "id, version, account, created, seen, expires, idle, deadline, data"
	s.q = queries{
		load:        s.sql("SELECT id, version, account, created, seen, expires, idle, data, alias FROM {t} WHERE id = ? AND deadline > ?"),
		touch:       s.sql("UPDATE {t} SET deadline = CASE WHEN ? + idle < expires THEN ? + idle ELSE expires END, seen = ? WHERE id = ? AND seen < ? AND deadline > ? AND alias IS NULL"),
		insert:      s.sql("INSERT INTO {t} (" + cols + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"),
		update:      s.sql("UPDATE {t} SET version = version + 1, created = ?, seen = ?, expires = ?, idle = ?, deadline = ?, data = ? WHERE id = ? AND version = ? AND deadline > ? AND alias IS NULL"),
		version:     s.sql("SELECT version, alias FROM {t} WHERE id = ? AND deadline > ?"),
		purge:       s.sql("DELETE FROM {t} WHERE id = ? AND deadline <= ?"),
		move:        s.sql("UPDATE {t} SET id = ?, version = version + 1, account = ?, created = ?, seen = ?, expires = ?, idle = ?, deadline = ?, data = ? WHERE id = ? AND version = ? AND deadline > ? AND alias IS NULL"),
		alias:       s.sql("INSERT INTO {t} (" + cols + ", alias) VALUES (?, 0, '', 0, 0, ?, 0, ?, ?, ?)"),
		remove:      s.sql("DELETE FROM {t} WHERE id = ? AND alias IS NULL"),
		removeAlias: s.sql("DELETE FROM {t} WHERE alias = ?"),
		list:        s.sql("SELECT id, version, account, created, seen, expires, idle, data, alias FROM {t} WHERE account = ? AND deadline > ? ORDER BY created DESC"),
		cleanup:     s.sql("DELETE FROM {t} WHERE deadline <= ? AND id IN (SELECT id FROM (SELECT id FROM {t} WHERE deadline <= ? LIMIT ?) AS dead)"),
	}
	return s, nil
}

func (s *Store) sql(q string) string {
	return sqltable.Statement(q, s.o.Table, s.o.Dialect == PostgreSQL)
}

// Migrate creates or upgrades the table. Safe to call from every server at every start.
func (s *Store) Migrate(ctx context.Context) error {
	key, blob, account := "BLOB", "BLOB", "TEXT"
	switch s.o.Dialect {
	case PostgreSQL:
		key, blob = "BYTEA", "BYTEA"
	case MySQL:
		key, blob, account = "BINARY(32)", "MEDIUMBLOB", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
	}
	create := fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
		id %s NOT NULL PRIMARY KEY, version BIGINT NOT NULL, account %s NOT NULL, created BIGINT NOT NULL, seen BIGINT NOT NULL,
		expires BIGINT NOT NULL, idle BIGINT NOT NULL, deadline BIGINT NOT NULL, data %s NOT NULL, alias %s NULL`, s.o.Table, key, account, blob, key)
	var indexes []string
	for _, col := range []string{"account", "deadline", "alias"} {
		if s.o.Dialect == MySQL {
			create += fmt.Sprintf(", INDEX %s_%s (%s)", s.o.Table, col, col)
		} else {
			indexes = append(indexes, fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s_%s ON %s (%s)", s.o.Table, col,
				s.o.Table, col))
		}
	}
	var err error
	for range 5 { // two servers that create at the same time collide in the catalogue of PostgreSQL
		err = nil
		for _, q := range append([]string{create + ")"}, indexes...) {
			if _, err = s.db.ExecContext(ctx, q); err != nil {
				break
			}
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sqlstore: migrate: %w", err)
	}
	return nil
}

// Cleanup deletes up to max expired records and returns how many. See RunCleanup.
func (s *Store) Cleanup(ctx context.Context, now time.Time, max int) (n int, err error) {
	err = again(ctx, func() error { n, err = s.cleanup(ctx, now, max); return err })
	return n, err
}

func (s *Store) cleanup(ctx context.Context, now time.Time, max int) (int, error) {
	res, err := s.db.ExecContext(ctx, s.q.cleanup, now.UnixMilli(), now.UnixMilli(), max)
	if err != nil {
		return 0, fmt.Errorf("sqlstore: cleanup: %w", err)
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// cleanupBatch keeps each transaction of RunCleanup short.
const cleanupBatch = 1000

// RunCleanup deletes expired records at every interval (0: 10 min), a thousand per statement, until ctx ends; then it
// returns ctx.Err(). Several servers may run it. failed, if not nil, is told of errors, after which it goes on.
func (s *Store) RunCleanup(ctx context.Context, interval time.Duration, failed func(error)) error {
	if interval <= 0 {
		interval = 10 * time.Minute
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		for n := cleanupBatch; n == cleanupBatch; {
			var err error
			if n, err = s.Cleanup(ctx, time.Now(), cleanupBatch); err != nil && ctx.Err() == nil && failed != nil {
				failed(err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

type scanner interface{ Scan(...any) error }

func scan(row scanner) (r session.Record, alias []byte, err error) {
	var id []byte
	var created, seen, expires, idle int64
	if err = row.Scan(&id, &r.Version, &r.User, &created, &seen, &expires, &idle, &r.Data, &alias); err != nil {
		return r, nil, err
	}
	if len(id) != len(r.Key) {
		return r, nil, errors.New("id has the wrong length")
	}
	r.Key = session.Key(id)
	r.Created, r.Seen, r.Expires = time.UnixMilli(created), time.UnixMilli(seen), time.UnixMilli(expires)
	r.Idle = time.Duration(idle) * time.Millisecond
	return r, alias, nil
}

// maxHops bounds how many grace keys are followed: one leads to the record, and more appear only when it is rotated
// under our eyes.
const maxHops = 8

func (s *Store) load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	at := now.UnixMilli()
	for range maxHops {
		r, alias, err := scan(s.db.QueryRowContext(ctx, s.q.load, k[:], at))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return r, session.ErrNotFound
		case err != nil:
			return r, fmt.Errorf("sqlstore: load: %w", err)
		case alias != nil:
			k = session.Key(alias)
			continue
		case r.Idle == 0 || now.Sub(r.Seen) < r.Idle/10:
			return r, nil
		}
		res, err := s.db.ExecContext(ctx, s.q.touch, at, at, at, k[:], at, at)
		if err != nil {
			return r, fmt.Errorf("sqlstore: touch: %w", err)
		}
		if n, err := res.RowsAffected(); err == nil && n == 0 {
			continue // somebody else touched it, gave it a new id, or ended it
		}
		r.Seen = time.UnixMilli(at)
		return r, nil
	}
	return session.Record{}, session.ErrNotFound
}

// blob is never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func idleMS(r *session.Record) int64 {
	return int64((min(r.Idle, math.MaxInt64-time.Millisecond) + time.Millisecond - 1) / time.Millisecond)
}

func (s *Store) create(ctx context.Context, k session.Key, r session.Record) error {
	insert := func() error {
		_, err := s.db.ExecContext(ctx, s.q.insert, k[:], 1, r.User, r.Created.UnixMilli(), r.Seen.UnixMilli(),
			r.Expires.UnixMilli(), idleMS(&r),
			r.Deadline().UnixMilli(), blob(r.Data))
		return err
	}
	err := insert()
	if err == nil {
		return nil
	}
	// Is it there already? Drivers name that error in ways of their own.
	if _, perr := s.db.ExecContext(ctx, s.q.purge, k[:], r.Seen.UnixMilli()); perr != nil {
		return fmt.Errorf("sqlstore: create: %w", err)
	}
	var version uint64
	var alias []byte
	if s.db.QueryRowContext(ctx, s.q.version, k[:], r.Seen.UnixMilli()).Scan(&version, &alias) == nil {
		return session.ErrExists
	}
	if err := insert(); err != nil {
		return fmt.Errorf("sqlstore: create: %w", err)
	}
	return nil
}

func (s *Store) update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	for range maxHops {
		res, err := s.db.ExecContext(ctx, s.q.update, r.Created.UnixMilli(), r.Seen.UnixMilli(), r.Expires.UnixMilli(),
			idleMS(&r), r.Deadline().UnixMilli(),
			blob(r.Data), k[:], r.Version, now.UnixMilli())
		if err != nil {
			return fmt.Errorf("sqlstore: update: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		alias, err := s.why(ctx, s.db, k, now)
		if alias == nil {
			return err
		}
		k = session.Key(alias)
	}
	return session.ErrNotFound
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// why says why a statement changed no row: ErrNotFound, ErrConflict, or a grace key that leads elsewhere.
func (s *Store) why(ctx context.Context, q querier, k session.Key, now time.Time) (alias []byte, err error) {
	var version uint64
	switch err := q.QueryRowContext(ctx, s.q.version, k[:], now.UnixMilli()).Scan(&version, &alias); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, session.ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("sqlstore: %w", err)
	}
	return alias, session.ErrConflict
}

func (s *Store) rotate(ctx context.Context, k, next session.Key, r session.Record, now time.Time,
	grace time.Duration) (err error) {
	if alias, _ := s.why(ctx, s.db, k, now); alias != nil {
		k = session.Key(alias)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlstore: rotate: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	res, err := tx.ExecContext(ctx, s.q.move, next[:], r.User, r.Created.UnixMilli(), r.Seen.UnixMilli(),
		r.Expires.UnixMilli(), idleMS(&r),
		r.Deadline().UnixMilli(), blob(r.Data), k[:], r.Version, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("sqlstore: rotate: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("sqlstore: rotate: %w", err)
	} else if n == 0 {
		_, err := s.why(ctx, tx, k, now)
		return err
	}
	if _, err = tx.ExecContext(ctx, s.q.removeAlias, k[:]); err != nil {
		return fmt.Errorf("sqlstore: rotate: %w", err)
	}
	if grace > 0 {
		end := now.Add(grace).UnixMilli()
		if _, err = tx.ExecContext(ctx, s.q.alias, k[:], end, end, []byte{}, next[:]); err != nil {
			return fmt.Errorf("sqlstore: rotate: %w", err)
		}
	}
	if err = tx.Commit(); err != nil {
		return fmt.Errorf("sqlstore: rotate: %w", err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, k session.Key) error {
	for range maxHops {
		res, err := s.db.ExecContext(ctx, s.q.remove, k[:])
		if err != nil {
			return fmt.Errorf("sqlstore: delete: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return fmt.Errorf("sqlstore: delete: %w", err)
		} else if n > 0 {
			if _, err := s.db.ExecContext(ctx, s.q.removeAlias, k[:]); err != nil {
				return fmt.Errorf("sqlstore: delete: %w", err)
			}
			return nil
		}
		// No record: a grace key, perhaps one that a rotation has made of it just now.
		alias, err := s.why(ctx, s.db, k, time.UnixMilli(0))
		if errors.Is(err, session.ErrNotFound) {
			return nil
		}
		if alias == nil {
			if errors.Is(err, session.ErrConflict) {
				continue
			}
			return err
		}
		k = session.Key(alias)
	}
	return nil
}

// ListUser implements [session.UserIndex].
func (s *Store) ListUser(ctx context.Context, user string, now time.Time) (ls []session.Listed, err error) {
	if user == "" {
		return nil, nil
	}
	rows, err := s.db.QueryContext(ctx, s.q.list, user, now.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("sqlstore: list: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r, _, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("sqlstore: list: %w", err)
		}
		ls = append(ls, session.Listed{Key: r.Key, Record: r})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlstore: list: %w", err)
	}
	return ls, nil
}

// DeleteUser implements [session.UserIndex].
func (s *Store) DeleteUser(ctx context.Context, user string, keep session.Key) (int, error) {
	ls, err := s.ListUser(ctx, user, time.UnixMilli(0))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range ls {
		if l.Key == keep {
			continue
		}
		if err := s.Delete(ctx, l.Key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
