// Package mariadb is the SQL of package sqldb for MariaDB 10.6 and later with InnoDB.
//
// The guards are permanent BEFORE triggers that read the slot's state with LOCK IN SHARE MODE, which is the latest
// state whatever the isolation level: a fence waits for writers in flight, and later ones see it. DDL ends transactions
// in this database, so the triggers are made before a slot's state changes, not with it.
package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// Database implements sqldb.Database. New makes one.
type Database struct {
	sqldb.SQLPlaces
	sqldb.LockedNotes
}

// New returns the SQL of MariaDB.
func New() Database { return Database{SQLPlaces: sqldb.SQLPlaces{Bind: bind}} }

var _ sqldb.Database = Database{}

// Name implements sqldb.Text.
func (Database) Name() string { return "mariadb" }

// IsFenced implements sqldb.Errors. It is also true for 1146 about a state table: MariaDB answers that now and then to
// a statement that meets the creation of the triggers. Either way the statement did nothing.
func (Database) IsFenced(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "tierkit: slot") || strings.Contains(text, "Error 1146 ") &&
		strings.Contains(text, ".tk_")
}

// IsRetryable implements sqldb.Errors: deadlock, lock wait timeout, record changed since last read, table definition
// changed.
func (Database) IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	for _, n := range []string{"1213", "1205", "1020", "1412"} {
		if strings.Contains(text, "Error "+n+" ") {
			return true
		}
	}
	return false
}

var (
	onConflict = regexp.MustCompile(`(?s)\s+on conflict \([^)]*\) do (nothing|update set (.*))$`)
	excluded   = regexp.MustCompile(`excluded\.(\w+)`)
)

// bind writes "on conflict" as MariaDB has it; its placeholders are question marks.
func bind(q string) string {
	m := onConflict.FindStringSubmatchIndex(q)
	if m == nil {
		return q
	}
	if m[4] < 0 {
		return strings.Replace(q[:m[0]], "insert into", "insert ignore into", 1)
	}
	return q[:m[0]] + " on duplicate key update " + excluded.ReplaceAllString(q[m[4]:m[5]], "values($1)")
}

// Bind implements sqldb.Text.
func (Database) Bind(q string) string { return bind(q) }

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// names joins the quoted names of columns, each behind a prefix.
func names(cols []sqldb.Column, prefix string) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = prefix + quote(c.Name)
	}
	return strings.Join(out, ", ")
}

// Quote implements sqldb.Text.
func (Database) Quote(name string) string { return quote(name) }

// TextKey implements sqldb.Text.
func (Database) TextKey() string { return "varchar(191)" }

// LongText implements sqldb.Text.
func (Database) LongText() string { return "longtext" }

// DDLInTx implements sqldb.Text.
func (Database) DDLInTx() bool { return false }

// SlotList implements sqldb.Text.
func (Database) SlotList(slots []sqldb.Slot) string { return "[" + sqldb.JoinSlots(slots) + "]" }

// InSlots implements sqldb.Text.
func (Database) InSlots(column string, _ int) string {
	return column + ` in (select tk_s from json_table(?, '$[*]' columns (tk_s int path '$')) tk_j)`
}

const (
	markMover   = `set @tk_mover = 1, session innodb_lock_wait_timeout = {seconds}`
	unmarkMover = `set @tk_mover = null, session innodb_lock_wait_timeout = default`
	lockToken   = `select token from tk_mover where id = 1 for update`
	setToken    = `update tk_mover set token = ? where id = 1`
)

// Begin implements sqldb.Mover. It marks the connection with a user variable, which Commit and Abort take back: the
// transaction must end by one of them, and by no context, or the mark would stay on a connection of the pool.
func (d Database) Begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, err
	}
	var have uint64
	seconds := fmt.Sprint(max(1, int(lockTimeout.Seconds())))
	_, err = tx.ExecContext(ctx, sqldb.Fill(markMover, "seconds", seconds))
	if err == nil {
		err = tx.QueryRowContext(ctx, lockToken).Scan(&have)
	}
	if err == nil && have > token {
		err = sqldb.ErrMoverLost
	}
	if err == nil && have < token {
		_, err = tx.ExecContext(ctx, setToken, int64(token))
	}
	if err != nil {
		d.Abort(tx)
		return nil, err
	}
	return tx, nil
}

// Commit implements sqldb.Mover.
func (Database) Commit(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, unmarkMover); err != nil {
		return err
	}
	return tx.Commit()
}

// Abort implements sqldb.Mover.
func (Database) Abort(tx *sql.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel() // when the time is up the driver closes the connection, and the mark with it
	_, _ = tx.ExecContext(ctx, unmarkMover)
	_ = tx.Rollback()
}

const (
	selectColumns = `
select column_name, column_type
from information_schema.columns
where table_schema = database()
and table_name = ?
and is_generated = 'NEVER'
order by ordinal_position`

	selectIndexes = `
select non_unique, group_concat(column_name order by seq_in_index)
from information_schema.statistics
where table_schema = database()
and table_name = ?
group by index_name, non_unique`

	selectBytes = `
select coalesce(sum(data_length + index_length), 0)
from information_schema.tables
where table_schema = database()`
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
	want := make([]string, len(info.Keys))
	for i, k := range info.Keys {
		if strings.Contains(k.Type, "binary") || strings.Contains(k.Type, "blob") {
			return nil, fmt.Errorf("%w: key column %s.%s is binary", sqldb.ErrPreflight, t.Name, k.Name)
		}
		want[i] = k.Name
	}
	unique, indexed := false, false
	rows, err := tx.QueryContext(ctx, selectIndexes, t.Name)
	err = sqldb.Each(rows, err, func() error {
		var many bool
		var cols string
		err := rows.Scan(&many, &cols)
		have := strings.Split(cols, ",")
		unique = unique || !many && sameNames(have, want)
		indexed = indexed || strings.EqualFold(have[0], t.SlotColumn)
		return err
	})
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

func sameNames(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		found := false
		for _, y := range b {
			found = found || strings.EqualFold(x, y)
		}
		if !found {
			return false
		}
	}
	return true
}

// Bytes implements sqldb.Database.
func (Database) Bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, selectBytes).Scan(&n)
}
