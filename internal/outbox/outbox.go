// Package outbox carries what a transaction says to the outside world (messages, invalidations) in a table of the same database, so that both
// happen or neither does, and hands it on afterwards (transactional outbox).
//
// Rows are deleted once they were handed on; there is no "last id seen". So it does not matter that ids are given out in another order than
// transactions commit, by which relays that read on from the last id skip rows. Delivery is at least once: whoever receives rows must know a repeated one by
// its key.
package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/sqltable"
)

// Dialect is the database's SQL.
type Dialect uint8

const (
	SQLite Dialect = iota
	PostgreSQL
	MySQL
)

// Table is an outbox table. It is safe for concurrent use.
type Table struct {
	name    string
	dialect Dialect
	insert  string
	read    string
	count   string
}

// Row is one entry.
type Row struct {
	ID      int64
	Key     string // unique to the entry
	Created time.Time
	Payload []byte
}

// Execer is a *sql.Tx, *sql.Conn or *sql.DB.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// New describes a table; it does not touch the database.
func New(name string, d Dialect) (*Table, error) {
	if err := sqltable.CheckName(name); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	if d > MySQL {
		return nil, fmt.Errorf("outbox: dialect %d is none", d)
	}
	t := &Table{name: name, dialect: d}
	t.insert = t.sql("INSERT INTO {t} (entry_key, created, payload) VALUES (?, ?, ?)")
	t.read = t.sql("SELECT id, entry_key, created, payload FROM {t} ORDER BY id LIMIT ?")
	if d != SQLite {
		t.read += " FOR UPDATE SKIP LOCKED" // relays on several servers share the work
	}
	t.count = t.sql("SELECT COUNT(*), COALESCE(MIN(created), 0) FROM {t}")
	return t, nil
}

func (t *Table) sql(q string) string { return sqltable.Statement(q, t.name, t.dialect == PostgreSQL) }

// Migrate creates the table. Safe to call from every server at every start.
func (t *Table) Migrate(ctx context.Context, db *sql.DB) error {
	id, blob, text := "INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB", "TEXT"
	switch t.dialect {
	case PostgreSQL:
		id, blob = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "BYTEA"
	case MySQL:
		id, blob, text = "BIGINT AUTO_INCREMENT PRIMARY KEY", "LONGBLOB", "VARCHAR(255)"
	}
	var err error
	for range 5 { // two servers that create at the same time collide in the catalogue of PostgreSQL
		_, err = db.ExecContext(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (id %s, entry_key %s NOT NULL, created BIGINT NOT NULL, payload %s NOT NULL)", t.name, id, text, blob))
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("outbox: migrate: %w", err)
	}
	return nil
}

// Add writes an entry in the caller's transaction.
func (t *Table) Add(ctx context.Context, tx Execer, key string, payload []byte) error {
	if payload == nil {
		payload = []byte{}
	}
	if _, err := tx.ExecContext(ctx, t.insert, key, time.Now().UnixMilli(), payload); err != nil {
		return fmt.Errorf("outbox: add: %w", err)
	}
	return nil
}

// Drain hands up to max of the oldest committed entries to deliver, and deletes them when it returns nil. It returns how many.
func (t *Table) Drain(ctx context.Context, db *sql.DB, max int, deliver func(context.Context, []Row) error) (n int, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	rows, err := t.rows(ctx, tx, max)
	if err != nil {
		return 0, fmt.Errorf("outbox: read: %w", err)
	}
	if len(rows) == 0 {
		return 0, tx.Rollback()
	}
	if err := deliver(ctx, rows); err != nil {
		return 0, err
	}
	args := make([]any, len(rows))
	for i, r := range rows {
		args[i] = r.ID
	}
	q := t.sql("DELETE FROM {t} WHERE id IN (?" + strings.Repeat(", ?", len(rows)-1) + ")")
	if _, err := tx.ExecContext(ctx, q, args...); err != nil {
		return 0, fmt.Errorf("outbox: delete: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("outbox: delete: %w", err)
	}
	return len(rows), nil
}

func (t *Table) rows(ctx context.Context, tx *sql.Tx, max int) (rows []Row, err error) {
	rs, err := tx.QueryContext(ctx, t.read, max)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rs.Close()) }()
	for rs.Next() {
		var r Row
		var created int64
		if err := rs.Scan(&r.ID, &r.Key, &created, &r.Payload); err != nil {
			return nil, err
		}
		r.Created = time.UnixMilli(created)
		rows = append(rows, r)
	}
	return rows, rs.Err()
}

// Backlog is how many entries wait, and since when the oldest.
func (t *Table) Backlog(ctx context.Context, db *sql.DB) (n int, oldest time.Time, err error) {
	var created int64
	if err := db.QueryRowContext(ctx, t.count).Scan(&n, &created); err != nil {
		return 0, oldest, fmt.Errorf("outbox: %w", err)
	}
	if n > 0 {
		oldest = time.UnixMilli(created)
	}
	return n, oldest, nil
}
