// Package sqlite is the SQL of package sqldb for SQLite 3.35 and later. Write transactions are serial there, so a
// change of a slot's state needs no lock; the guards are AFTER triggers that look the state up.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// Database implements sqldb.Database. New makes one.
type Database struct {
	sqldb.SQLPlaces
	sqldb.LockedNotes
}

// New returns the SQL of SQLite.
func New() Database { return Database{SQLPlaces: sqldb.SQLPlaces{Bind: sqldb.Ident}} }

var _ sqldb.Database = Database{}

// Name implements sqldb.Text.
func (Database) Name() string { return "sqlite" }

// IsFenced implements sqldb.Errors.
func (Database) IsFenced(err error) bool {
	return err != nil && strings.Contains(err.Error(), "tierkit: slot")
}

// IsRetryable implements sqldb.Errors: SQLITE_BUSY and SQLITE_LOCKED.
func (Database) IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	var c interface{ Code() int } // modernc.org/sqlite
	if errors.As(err, &c) {
		return c.Code()&0xff == 5 || c.Code()&0xff == 6
	}
	return strings.Contains(err.Error(), "database is locked")
}

// Bind implements sqldb.Text.
func (Database) Bind(q string) string { return q }

// Quote implements sqldb.Text.
func (Database) Quote(name string) string { return sqldb.Quote(name) }

// TextKey implements sqldb.Text.
func (Database) TextKey() string { return "text" }

// LongText implements sqldb.Text.
func (Database) LongText() string { return "text" }

// DDLInTx implements sqldb.Text.
func (Database) DDLInTx() bool { return true }

func slotList(slots []sqldb.Slot) string { return "[" + sqldb.JoinSlots(slots) + "]" }

func inSlots(column string, arg int) string {
	return fmt.Sprintf("%s in (select value from json_each(?%d))", column, arg)
}

// SlotList implements sqldb.Text.
func (Database) SlotList(slots []sqldb.Slot) string { return slotList(slots) }

// InSlots implements sqldb.Text.
func (Database) InSlots(column string, arg int) string { return inSlots(column, arg) }

const (
	beginMover = `
update tk_mover
set token = ?1, active = 1
where id = 1
and token <= ?1`

	endMover = `update tk_mover set active = 0 where id = 1`
)

// Begin implements sqldb.Mover. Its first statement takes the write lock. No other connection sees "active", because it
// is reset before the commit.
func (Database) Begin(ctx context.Context, db *sql.DB, token uint64, _ time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, beginMover, int64(token))
	if err == nil {
		var n int64
		if n, err = res.RowsAffected(); err == nil && n != 1 {
			err = sqldb.ErrMoverLost
		}
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// Commit implements sqldb.Mover.
func (Database) Commit(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, endMover); err != nil {
		return err
	}
	return tx.Commit()
}

// Abort implements sqldb.Mover.
func (Database) Abort(tx *sql.Tx) { _ = tx.Rollback() }

const (
	selectColumns = `
select name, upper(type)
from pragma_table_info(?)
order by cid`

	countSlotIndexes = `
select count(*)
from pragma_index_list(?1) l
join pragma_index_info(l.name) i on i.seqno = 0 and lower(i.name) = lower(?2)`

	selectBytes = `
select page_count * page_size
from pragma_page_count(), pragma_page_size()`
)

// Columns implements sqldb.Database.
func (Database) Columns(ctx context.Context, tx *sql.Tx, t sqldb.TableSpec) (*sqldb.Table, error) {
	rows, err := tx.QueryContext(ctx, selectColumns, t.Name)
	return sqldb.ReadColumns(t, rows, err)
}

// Describe implements sqldb.Mover.
func (d Database) Describe(ctx context.Context, tx *sql.Tx, t sqldb.TableSpec) (*sqldb.Table, error) {
	info, err := d.Columns(ctx, tx, t)
	if err != nil {
		return nil, err
	}
	if err := info.FindKeys(); err != nil {
		return nil, err
	}
	for _, k := range info.Keys {
		if strings.Contains(k.Type, "BLOB") {
			return nil, fmt.Errorf("%w: key column %s.%s is a BLOB", sqldb.ErrPreflight, t.Name, k.Name)
		}
	}
	var indexed int
	if err := tx.QueryRowContext(ctx, countSlotIndexes, t.Name, t.SlotColumn).Scan(&indexed); err != nil {
		return nil, err
	}
	if indexed == 0 {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", sqldb.ErrPreflight, t.Name,
			t.SlotColumn)
	}
	return info, nil
}

// Bytes implements sqldb.Database.
func (Database) Bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, selectBytes).Scan(&n)
}
