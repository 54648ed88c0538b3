package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

var createTables = []string{`
create table tk_slot (
  slot integer primary key,
  state text not null,
  since integer not null default 0
)`, `
create table tk_mover (
  id integer primary key,
  token integer not null,
  active integer not null
)`, `
create table tk_dirty (
  seq integer primary key autoincrement,
  tbl text not null,
  slot integer not null,
  pk text not null
)`, `
create table tk_pin (
  hashed integer not null,
  by text not null,
  slot integer not null,
  primary key (hashed, by)
)`, `
create table tk_job (
  job text,
  tbl text,
  place text not null,
  primary key (job, tbl)
)`,
	`insert into tk_mover values (1, 0, 0)`,
}

const (
	countTables   = `select count(*) from sqlite_master where name = 'tk_job'`
	countSince    = `select count(*) from pragma_table_info('tk_slot') where name = 'since'`
	addSince      = `alter table tk_slot add column since integer not null default 0`
	countSlots    = `select count(*) from tk_slot`
	insertMissing = `
insert or ignore into tk_slot (slot, state)
with recursive s(x) as (
  select 0
  union all
  select x + 1
  from s
  where x + 1 < ?1
)
select x, case when x in (select value from json_each(?2)) then 'owned' else 'gone' end
from s`

	selectSlot = `
select state, since, exists (select 1 from tk_pin where hashed = ?1)
from tk_slot
where slot = ?1`

	selectPinned = `
select exists (
  select 1
  from tk_pin
  where {key}
)`

	upsertState = `
insert into tk_slot (slot, state)
select value, ?1
from json_each(?2)
where true
on conflict (slot) do update set state = excluded.state`

	updateOwner = `
update tk_slot
set state = ?1, since = ?2
where slot in (select value from json_each(?3))`

	insertPin = `insert or ignore into tk_pin (hashed, by, slot) values (?, ?, ?)`

	updatePinned = `
update {table}
set {slot} = ?2
where {slot} = ?1
and {key}`
)

// Prepare implements sqldb.Slots.
func (Database) Prepare(ctx context.Context, tx *sql.Tx, slots int, owned []sqldb.Slot) error {
	var n int
	if err := tx.QueryRowContext(ctx, countTables).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		for _, q := range createTables {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	if err := tx.QueryRowContext(ctx, countSince).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		if _, err := tx.ExecContext(ctx, addSince); err != nil {
			return err
		}
	}
	if err := tx.QueryRowContext(ctx, countSlots).Scan(&n); err != nil || n >= slots {
		return err
	}
	_, err := tx.ExecContext(ctx, insertMissing, slots, slotList(owned))
	return err
}

// SlotState implements sqldb.Slots.
func (Database) SlotState(ctx context.Context, tx *sql.Tx, s sqldb.Slot, by []string,
	_ bool) (at sqldb.SlotRow, err error) {
	var pins bool
	err = tx.QueryRowContext(ctx, selectSlot, int(s)).Scan(&at.State, &at.Since, &pins)
	if errors.Is(err, sql.ErrNoRows) {
		return sqldb.SlotRow{State: sqldb.Gone}, nil
	}
	if err != nil || !pins {
		return at, err
	}
	same := []string{"hashed = ?1"}
	for i := range by {
		same = append(same, fmt.Sprintf("json_extract(by, '$[%d]') = json_extract(?2, '$[%d]')", i, i))
	}
	q := sqldb.Fill(selectPinned, "key", strings.Join(same, " and "))
	err = tx.QueryRowContext(ctx, q, int(s), sqldb.JSONStrings(by)).Scan(&pins)
	if pins {
		at.State = sqldb.Gone // to a slot that the caller's map does not know
	}
	return at, err
}

// SetState implements sqldb.Slots.
func (Database) SetState(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState) error {
	_, err := tx.ExecContext(ctx, upsertState, string(state), slotList(slots))
	return err
}

// Own implements sqldb.Slots.
func (Database) Own(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState, since uint64) error {
	_, err := tx.ExecContext(ctx, updateOwner, string(state), int64(since), slotList(slots))
	return err
}

// Touch implements sqldb.Slots: write transactions are serial.
func (Database) Touch(context.Context, *sql.Tx, sqldb.Slot) error { return nil }

// Pin implements sqldb.Slots.
func (Database) Pin(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table, p sqldb.PinRow) error {
	if _, err := tx.ExecContext(ctx, insertPin, int(p.Old), p.By, int(p.Slot)); err != nil {
		return err
	}
	for _, t := range tables {
		same := make([]string, len(t.Bys))
		for i, c := range t.Bys {
			same[i] = fmt.Sprintf("cast(%s as text) = json_extract(?3, '$[%d]')", sqldb.Quote(c.Name), i)
		}
		q := sqldb.Fill(updatePinned, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn), "key",
			strings.Join(same, " and "))
		if _, err := tx.ExecContext(ctx, q, int(p.Old), int(p.Slot), p.By); err != nil {
			return err
		}
	}
	return nil
}
