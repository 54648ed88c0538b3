package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Postgres is the dialect of PostgreSQL 12 and later.
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
// The mover's transactions commit synchronously whatever the database's default is, so where standbys are synchronous a
// fence is on one before the next step begins, and a standby that is promoted keeps it.
//
// The guards need plpgsql, and a mover that owns the tables. Writers need no rights on the state tables but those that
// PUBLIC is given: to read and to lock slot states and pins, and to note keys.
func Postgres() Dialect { return postgres{} }

type postgres struct{}

func (postgres) Name() string { return "postgres" }

func (postgres) IsFenced(err error) bool {
	return sqlState(err) == "55006" && strings.Contains(err.Error(), "tierkit:")
}

func (postgres) IsRetryable(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01", "55P03":
		return true
	}
	return false
}

func (postgres) bind(q string) string {
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

func (postgres) slotList(slots []Slot) string { return "{" + joinSlots(slots) + "}" }
func (postgres) inSlots(col string, arg int) string {
	return fmt.Sprintf("%s = any($%d::text::int[])", col, arg)
}

func (postgres) slotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, readOnly bool) (at slotRow, err error) {
	q := `select state, since, exists (select 1 from tk_pin where hashed = $1) from tk_slot where slot = $1`
	if !readOnly { // held until the end: the slot cannot be given away under the transaction
		q += ` for share of tk_slot`
	}
	var pins bool
	err = tx.QueryRowContext(ctx, q, int(s)).Scan(&at.state, &at.since, &pins)
	if errors.Is(err, sql.ErrNoRows) {
		return slotRow{state: stateGone}, nil
	}
	if err != nil || !pins {
		return at, err
	}
	err = tx.QueryRowContext(ctx, `select exists (select 1 from tk_pin where hashed = $1 and by = $2::text::jsonb)`,
		int(s), jsonStrings(by)).Scan(&pins)
	if pins {
		at.state = stateGone // to a slot that the caller's map does not know
	}
	return at, err
}

func (postgres) begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, `update tk_mover set token = $1 where id = 1 and token <= $1`, int64(token))
	if err == nil {
		var n int64
		if n, err = res.RowsAffected(); err == nil && n != 1 {
			err = ErrMoverLost
		}
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `select set_config('tk.mover', '1', true), set_config('lock_timeout', $1, true), set_config('timezone', 'UTC', true),
set_config('synchronous_commit', case when current_setting('synchronous_commit') in ('off', 'local') then 'on' else current_setting('synchronous_commit') end, true)`,
			strconv.FormatInt(lockTimeout.Milliseconds(), 10))
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

func (postgres) commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

func (postgres) columns(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	rows, err := tx.QueryContext(ctx, `select attname, format_type(atttypid, atttypmod) from pg_attribute
where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and attgenerated = '' order by attnum`, t.Name)
	return readColumns(t, rows, err)
}

func (d postgres) describe(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	info, err := d.columns(ctx, tx, t)
	if err != nil {
		return nil, err
	}
	if err := info.findKeys(); err != nil {
		return nil, err
	}
	var unique, indexed bool
	keys := make([]string, len(info.keys))
	for i, k := range info.keys {
		keys[i] = k.name
	}
	err = tx.QueryRowContext(ctx, `select
exists (select 1 from pg_index i where i.indrelid = to_regclass($1) and i.indisunique and i.indpred is null and
  (select array_agg(a.attname::text order by a.attname) from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) =
  (select array_agg(k order by k collate "C") from jsonb_array_elements_text($2::text::jsonb) k)),
exists (select 1 from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] where i.indrelid = to_regclass($1) and a.attname = $3)`,
		t.Name, jsonStrings(keys), t.SlotColumn).Scan(&unique, &indexed)
	if err != nil {
		return nil, err
	}
	if !unique {
		return nil, fmt.Errorf("%w: table %s has no primary key or unique index on %v", ErrPreflight, t.Name, t.Key)
	}
	if !indexed {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return info, nil
}

func jsonStrings(s []string) string {
	out := make([]string, len(s))
	for i, v := range s {
		b, _ := json.Marshal(v)
		out[i] = string(b)
	}
	return jsonList(out)
}
