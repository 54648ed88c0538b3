// Package outbox carries what a transaction says to the outside world (messages, invalidations) in a table of the same
// database, so that both happen or neither does, and hands it on afterwards (transactional outbox).
//
// Rows are deleted once they were handed on; there is no "last id seen". So it does not matter that ids are given out
// in another order than transactions commit, by which relays that read on from the last id skip rows. Delivery is at
// least once: whoever receives rows must know a repeated one by its key.
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

// Deliver hands rows on and returns which of them it has: these are deleted, also when it returns an error. One that
// wraps [ErrStays] says that the others stay in the table and need not hold up what comes after them.
type Deliver func(ctx context.Context, rows []Row) (done []Row, err error)

// ErrStays: a row could not be handed on, and those behind it may be.
var ErrStays = errors.New("outbox: rows stay")

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

// New describes a table; it does not touch the database. Relays on several servers share the work.
func New(name string, d Dialect) (*Table, error) { return describe(name, d, " SKIP LOCKED") }

// NewOrdered is New for a table whose relays take turns, so that rows are handed on in the order of their ids.
func NewOrdered(name string, d Dialect) (*Table, error) { return describe(name, d, "") }

func describe(name string, d Dialect, locked string) (*Table, error) {
	if err := sqltable.CheckName(name); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	if d > MySQL {
		return nil, fmt.Errorf("outbox: dialect %d is none", d)
	}
	t := &Table{name: name, dialect: d}
	t.insert = t.sql("INSERT INTO {t} (entry_key, created, payload) VALUES (?, ?, ?)")
	t.read = t.sql("SELECT id, entry_key, created, payload FROM {t} WHERE id > ? ORDER BY id LIMIT ?")
	if d != SQLite {
		t.read += " FOR UPDATE" + locked
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
		_, err = db.ExecContext(ctx, fmt.Sprintf(
			"CREATE TABLE IF NOT EXISTS %s (id %s, entry_key %s NOT NULL, created BIGINT NOT NULL, payload %s NOT NULL)", t.name, id, text, blob))
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

// page is what one Drain did.
type page struct {
	read, moved int
	last        int64 // id of the last row read
}

// drain hands up to max of the oldest committed entries behind an id to deliver, and deletes those that it has handed
// on.
func (t *Table) drain(ctx context.Context, db *sql.DB, after int64, max int, deliver Deliver) (p page, err error) {
	if t.dialect == SQLite {
		// Without a transaction: it would keep all others from writing while deliver is at work, or fail because they
		// did. Two relays may then both hand a row on, which receivers have to know anyway, and neither hands on a
		// later row before an earlier one.
		return t.exchange(ctx, db, after, max, deliver)
	}
	var o *sql.TxOptions
	if t.dialect == MySQL {
		// REPEATABLE READ locks the gap behind the last row: nobody could add one meanwhile
		o = &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	}
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		return p, fmt.Errorf("outbox: %w", err)
	}
	p, err = t.exchange(ctx, tx, after, max, deliver)
	if p.moved == 0 {
		return p, errors.Join(err, tx.Rollback())
	}
	if cerr := tx.Commit(); cerr != nil {
		p.moved = 0
		err = errors.Join(err, fmt.Errorf("outbox: delete: %w", cerr))
	}
	return p, err
}

type querier interface {
	Execer
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func (t *Table) exchange(ctx context.Context, q querier, after int64, max int, deliver Deliver) (p page, err error) {
	rows, err := t.rows(ctx, q, after, max)
	if err != nil {
		return p, fmt.Errorf("outbox: read: %w", err)
	}
	if len(rows) == 0 {
		return p, nil
	}
	p.read, p.last = len(rows), rows[len(rows)-1].ID
	done, err := deliver(ctx, rows)
	if len(done) == 0 {
		return p, err
	}
	args := make([]any, len(done))
	for i, r := range done {
		args[i] = r.ID
	}
	if _, derr := q.ExecContext(ctx, t.sql("DELETE FROM {t} WHERE id IN (?"+strings.Repeat(", ?", len(done)-1)+")"),
		args...); derr != nil {
		return p, errors.Join(err, fmt.Errorf("outbox: delete: %w", derr))
	}
	p.moved = len(done)
	return p, err
}

func (t *Table) rows(ctx context.Context, q querier, after int64, max int) (rows []Row, err error) {
	rs, err := q.QueryContext(ctx, t.read, after, max)
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
