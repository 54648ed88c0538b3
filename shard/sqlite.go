package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// SQLite is the dialect of SQLite 3.35 and later. Write transactions are serial there, so a change of a slot's state
// needs no lock; the guards are AFTER triggers that look the state up. Open the database so that transactions begin
// immediately (modernc.org/sqlite: _txlock=immediate), else one that reads first may fail with SQLITE_BUSY.
//
// Not captured: rows that INSERT OR REPLACE removes for a conflict on another unique index than the key, unless PRAGMA
// recursive_triggers is on. Keys must not be BLOBs.
func SQLite() Dialect { return sqlite{} }

type sqlite struct{ lockedNotes }

func (sqlite) Name() string { return "sqlite" }

func (sqlite) IsFenced(err error) bool {
	return err != nil && strings.Contains(err.Error(), "tierkit: slot")
}

func (sqlite) IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	var c interface{ Code() int } // modernc.org/sqlite
	if errors.As(err, &c) {
		return c.Code()&0xff == 5 || c.Code()&0xff == 6
	}
	return strings.Contains(err.Error(), "database is locked")
}

func (sqlite) bind(q string) string { return q }

func (sqlite) slotList(slots []Slot) string { return "[" + joinSlots(slots) + "]" }
func (sqlite) inSlots(col string, arg int) string {
	return fmt.Sprintf("%s in (select value from json_each(?%d))", col, arg)
}

func (sqlite) slotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, _ bool) (at slotRow, err error) {
	var pins bool
	err = tx.QueryRowContext(ctx, `select state, since, exists (select 1 from tk_pin where hashed = ?1) from tk_slot where slot = ?1`, int(s)).Scan(&at.state, &at.since, &pins)
	if errors.Is(err, sql.ErrNoRows) {
		return slotRow{state: stateGone}, nil
	}
	if err != nil || !pins {
		return at, err
	}
	same := []string{"hashed = ?1"}
	for i := range by {
		same = append(same, fmt.Sprintf("json_extract(by, '$[%d]') = json_extract(?2, '$[%d]')", i, i))
	}
	err = tx.QueryRowContext(ctx, `select exists (select 1 from tk_pin where `+strings.Join(same, " and ")+`)`, int(s),
		jsonStrings(by)).Scan(&pins)
	if pins {
		at.state = stateGone // to a slot that the caller's map does not know
	}
	return at, err
}

func (sqlite) touch(context.Context, *sql.Tx, Slot) error { return nil }

func (d sqlite) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	var n int
	if err := tx.QueryRowContext(ctx, `select count(*) from sqlite_master where name = 'tk_job'`).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		for _, q := range []string{
			`create table tk_slot (slot integer primary key, state text not null, since integer not null default 0)`,
			`create table tk_mover (id integer primary key, token integer not null, active integer not null)`,
			`create table tk_dirty (seq integer primary key autoincrement, tbl text not null, slot integer not null, pk text not null)`,
			`create table tk_pin (hashed integer not null, by text not null, slot integer not null, primary key (hashed, by))`,
			`create table tk_job (job text, tbl text, place text not null, primary key (job, tbl))`,
			`insert into tk_mover values (1, 0, 0)`,
		} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	if err := tx.QueryRowContext(ctx, `select count(*) from pragma_table_info('tk_slot') where name = 'since'`).Scan(
		&n); err != nil {
		return err
	}
	if n == 0 {
		if _, err := tx.ExecContext(ctx, `alter table tk_slot add column since integer not null default 0`); err != nil {
			return err
		}
	}
	if err := tx.QueryRowContext(ctx, `select count(*) from tk_slot`).Scan(&n); err != nil || n >= slots {
		return err
	}
	_, err := tx.ExecContext(ctx, `insert or ignore into tk_slot (slot, state) with recursive s(x) as (select 0 union all select x + 1 from s where x + 1 < ?1)
select x, case when x in (select value from json_each(?2)) then 'owned' else 'gone' end from s`, slots, d.slotList(owned))
	return err
}

// begin takes the write lock with its first statement. "active" is seen by nobody else: it is reset before the commit.
func (sqlite) begin(ctx context.Context, db *sql.DB, token uint64, _ time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, `update tk_mover set token = ?1, active = 1 where id = 1 and token <= ?1`,
		int64(token))
	if err == nil {
		var n int64
		if n, err = res.RowsAffected(); err == nil && n != 1 {
			err = ErrMoverLost
		}
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

func (sqlite) commit(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `update tk_mover set active = 0 where id = 1`); err != nil {
		return err
	}
	return tx.Commit()
}

func (sqlite) columns(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	rows, err := tx.QueryContext(ctx, `select name, upper(type) from pragma_table_info(?) order by cid`, t.Name)
	return readColumns(t, rows, err)
}

func (d sqlite) describe(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	info, err := d.columns(ctx, tx, t)
	if err != nil {
		return nil, err
	}
	if err := info.findKeys(); err != nil {
		return nil, err
	}
	for _, k := range info.keys {
		if strings.Contains(k.typ, "BLOB") {
			return nil, fmt.Errorf("%w: key column %s.%s is a BLOB", ErrPreflight, t.Name, k.name)
		}
	}
	var indexed int
	err = tx.QueryRowContext(ctx, `select count(*) from pragma_index_list(?1) l join pragma_index_info(l.name) i on i.seqno = 0 and lower(i.name) = lower(?2)`, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil {
		return nil, err
	}
	if indexed == 0 {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return info, nil
}

func (sqlite) lockTables(context.Context, *sql.Tx, []*tableInfo) error { return nil }

func (sqlite) guards(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error {
	for _, t := range tables {
		slot := quote(t.SlotColumn)
		state := func(r string) string { return `(select state from tk_slot where slot = ` + r + `.` + slot + `)` }
		moving := func(r string) string {
			return `coalesce(` + state(r) + `, 'gone') <> 'owned' or exists (select 1 from tk_pin where hashed = ` + r +
				`.` + slot + `)`
		}
		act := func(r string) string {
			keys := names(t.keys, func(c string) string { return r + "." + c })
			same := []string{"hashed = " + r + "." + slot}
			for i, c := range t.by {
				same = append(same, fmt.Sprintf("json_extract(by, '$[%d]') = cast(%s.%s as text)", i, r, quote(c.name)))
			}
			return `select raise(abort, 'tierkit: slot is being moved or lives elsewhere') where coalesce(` + state(r) + `, 'gone') not in ('owned', 'capture');
select raise(abort, 'tierkit: slot of a pinned key') from tk_pin where ` + strings.Join(same, " and ") + `;
insert into tk_dirty (tbl, slot, pk) select ` + literal(t.Name) + `, ` + r + `.` + slot + `, json_array(` + keys + `) where ` + state(r) + ` = 'capture';
`
		}
		for op, rs := range map[string][]string{"insert": {"new"}, "update": {"old", "new"}, "delete": {"old"}} {
			when, body := make([]string, len(rs)), ""
			for i, r := range rs {
				when[i] = moving(r)
				body += act(r)
			}
			q := `create trigger if not exists ` + quote("tk_guard_"+t.Name+"_"+op) + ` after ` + op + ` on ` + t.Name +
				` when (select active from tk_mover where id = 1) = 0 and (` +
				strings.Join(when, " or ") + `) begin ` + body + `end`
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d sqlite) setState(ctx context.Context, tx *sql.Tx, slots []Slot, state string) error {
	_, err := tx.ExecContext(ctx, `insert into tk_slot (slot, state) select value, ?1 from json_each(?2) where true on conflict (slot) do update set state = excluded.state`, state, d.slotList(slots))
	return err
}

func (d sqlite) own(ctx context.Context, tx *sql.Tx, slots []Slot, state string, since uint64) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = ?1, since = ?2 where slot in (select value from json_each(?3))`, state, int64(since), d.slotList(slots))
	return err
}

func (d sqlite) pin(ctx context.Context, tx *sql.Tx, tables []*tableInfo, old, slot Slot, by string) error {
	if _, err := tx.ExecContext(ctx, `insert or ignore into tk_pin (hashed, by, slot) values (?, ?, ?)`, int(old), by,
		int(slot)); err != nil {
		return err
	}
	for _, t := range tables {
		same := make([]string, len(t.by))
		for i, c := range t.by {
			same[i] = fmt.Sprintf("cast(%s as text) = json_extract(?3, '$[%d]')", quote(c.name), i)
		}
		col := quote(t.SlotColumn)
		if _, err := tx.ExecContext(ctx, `update `+t.Name+` set `+col+` = ?2 where `+col+` = ?1 and `+
			strings.Join(same, " and "), int(old), int(slot), by); err != nil {
			return err
		}
	}
	return nil
}

func (sqlite) install(context.Context, *sql.DB, []*tableInfo) error { return nil }
func (sqlite) abort(tx *sql.Tx)                                     { _ = tx.Rollback() }
func (sqlite) quote(name string) string                             { return quote(name) }
func (sqlite) textKey() string                                      { return "text" }
func (sqlite) longText() string                                     { return "text" }
func (sqlite) ddlInTx() bool                                        { return true }
