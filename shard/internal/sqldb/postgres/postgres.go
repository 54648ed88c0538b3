// Package postgres is the SQL of package sqldb for PostgreSQL 12 and later.
//
// The guard is a row trigger per table. While a slot is copied it notes the key of a row and no more. Before the fence
// the triggers' functions are written anew and the transactions that may have run the old ones are waited for, as
// CREATE INDEX CONCURRENTLY waits: that stalls no writer, but takes as long as the longest transaction that is writing
// to the tables. From then on the trigger reads the state of a slot that is not simply owned with SELECT ... FOR SHARE:
// a writer holds that lock until it commits, so a fence waits for writers in flight, and a REPEATABLE READ or
// SERIALIZABLE writer whose snapshot is older than the fence fails with 40001 instead of slipping past it. Rows of
// other slots pay for one bit test on INSERT, and on UPDATE and DELETE only during moves. A row whose slot is NULL or
// does not exist is refused, TRUNCATE is while any slot is moving or elsewhere.
//
// The mover's transactions commit synchronously whatever the database's default is. So where standbys are synchronous a
// fence is on one of them before the next step begins, and a standby that is promoted keeps it.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// Database implements sqldb.Database. New makes one.
type Database struct{ sqldb.SQLPlaces }

// New returns the SQL of PostgreSQL.
func New() Database { return Database{sqldb.SQLPlaces{Bind: bind}} }

var _ sqldb.Database = Database{}

// Name implements sqldb.Text.
func (Database) Name() string { return "postgres" }

// IsFenced implements sqldb.Errors.
func (Database) IsFenced(err error) bool {
	return sqlState(err) == "55006" && strings.Contains(err.Error(), "tierkit:")
}

// IsRetryable implements sqldb.Errors: serialization failure, deadlock, lock timeout.
func (Database) IsRetryable(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01", "55P03":
		return true
	}
	return false
}

func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

func bind(q string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, ok := strings.Cut(q, "?")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		fmt.Fprintf(&b, "$%d", n)
		q = after
	}
}

// Bind implements sqldb.Text.
func (Database) Bind(q string) string { return bind(q) }

// Quote implements sqldb.Text.
func (Database) Quote(name string) string { return sqldb.Quote(name) }

// TextKey implements sqldb.Text.
func (Database) TextKey() string { return "text" }

// LongText implements sqldb.Text.
func (Database) LongText() string { return "text" }

// DDLInTx implements sqldb.Text.
func (Database) DDLInTx() bool { return true }

func slotList(slots []sqldb.Slot) string { return "{" + sqldb.JoinSlots(slots) + "}" }

func inSlots(column string, arg int) string {
	return fmt.Sprintf("%s = any($%d::text::int[])", column, arg)
}

// SlotList implements sqldb.Text.
func (Database) SlotList(slots []sqldb.Slot) string { return slotList(slots) }

// InSlots implements sqldb.Text.
func (Database) InSlots(column string, arg int) string { return inSlots(column, arg) }

const (
	beginMover = `
update tk_mover
set token = $1
where id = 1
and token <= $1`

	markMover = `
select
  set_config('tk.mover', '1', true),
  set_config('lock_timeout', $1, true),
  set_config('timezone', 'UTC', true),
  set_config('synchronous_commit',
    case when current_setting('synchronous_commit') in ('off', 'local') then 'on'
    else current_setting('synchronous_commit') end, true)`
)

// Begin implements sqldb.Mover.
func (Database) Begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error) {
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
	if err == nil {
		_, err = tx.ExecContext(ctx, markMover, strconv.FormatInt(lockTimeout.Milliseconds(), 10))
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// Commit implements sqldb.Mover.
func (Database) Commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

// Abort implements sqldb.Mover.
func (Database) Abort(tx *sql.Tx) { _ = tx.Rollback() }

const (
	selectColumns = `
select attname, format_type(atttypid, atttypmod)
from pg_attribute
where attrelid = to_regclass($1)
and attnum > 0
and not attisdropped
and attgenerated = ''
order by attnum`

	// Whether there is a unique index on exactly the key, and one that begins with the slot.
	selectIndexes = `
select
  exists (
    select 1
    from pg_index i
    where i.indrelid = to_regclass($1)
    and i.indisunique
    and i.indpred is null
    and (
      select array_agg(a.attname::text order by a.attname)
      from pg_attribute a
      where a.attrelid = i.indrelid
      and a.attnum = any(i.indkey)
    ) = (
      select array_agg(k order by k collate "C")
      from jsonb_array_elements_text($2::text::jsonb) k
    )
  ),
  exists (
    select 1
    from pg_index i
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = to_regclass($1)
    and a.attname = $3
  )`
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
	keys := make([]string, len(info.Keys))
	for i, k := range info.Keys {
		keys[i] = k.Name
	}
	var unique, indexed bool
	err = tx.QueryRowContext(ctx, selectIndexes, t.Name, sqldb.JSONStrings(keys), t.SlotColumn).Scan(&unique, &indexed)
	if err != nil {
		return nil, err
	}
	if !unique {
		return nil, fmt.Errorf("%w: table %s has no primary key or unique index on %v", sqldb.ErrPreflight, t.Name,
			t.Key)
	}
	if !indexed {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", sqldb.ErrPreflight, t.Name,
			t.SlotColumn)
	}
	return info, nil
}

const selectBytes = `select pg_database_size(current_database())`

// Bytes implements sqldb.Database.
func (Database) Bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, selectBytes).Scan(&n)
}
