package mariadb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

var createTables = []string{`
create table if not exists tk_slot (
  slot int primary key,
  state varchar(16) not null,
  since bigint not null default 0
) engine=innodb`, `
create table if not exists tk_mover (
  id int primary key,
  token bigint not null
) engine=innodb`, `
create table if not exists tk_dirty (
  seq bigint auto_increment primary key,
  tbl varchar(191) not null,
  slot int not null,
  pk longtext character set utf8mb4 collate utf8mb4_bin not null
) engine=innodb`,
	"create table if not exists tk_pin (\n" +
		"  hashed int not null,\n" +
		"  `by` varchar(512) character set utf8mb4 collate utf8mb4_bin not null,\n" +
		"  slot int not null,\n" +
		"  primary key (hashed, `by`)\n" +
		") engine=innodb", `
create table if not exists tk_job (
  job varchar(64),
  tbl varchar(191),
  place longtext character set utf8mb4 not null,
  primary key (job, tbl)
) engine=innodb`,
	`insert ignore into tk_mover values (1, 0)`,
}

const (
	countTables = `
select count(*)
from information_schema.tables
where table_schema = database()
and table_name = 'tk_job'`

	countSlots    = `select count(*) from tk_slot`
	insertMissing = `insert ignore into tk_slot (slot, state) values {values}`

	upsertState = `
insert into tk_slot (slot, state)
values {values}
on duplicate key update state = values(state)`

	selectSlot = `select state, since from tk_slot where slot = ?`
	selectPins = "select `by` from tk_pin where hashed = ?"
	shareMode  = ` lock in share mode` // held until the end of the transaction

	updateOwner = `
update tk_slot
set state = ?, since = ?
where slot in ({slots})`

	touchSlot = `
update tk_slot
set state = state
where slot = ?`

	insertPin = "insert ignore into tk_pin (hashed, `by`, slot) values (?, ?, ?)"

	updatePinned = `
update {table}
set {slot} = ?
where {slot} = ?
{key}`

	andKey = ` and cast({col} as char character set utf8mb4) collate utf8mb4_bin = ?`
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
	if err := tx.QueryRowContext(ctx, countSlots).Scan(&n); err != nil || n >= slots {
		return err
	}
	mine := map[sqldb.Slot]bool{}
	for _, s := range owned {
		mine[s] = true
	}
	var values []string
	for s := range sqldb.Slot(slots) {
		state := sqldb.Gone
		if mine[s] {
			state = sqldb.Owned
		}
		values = append(values, stateValue(s, state))
		if len(values) == 2000 || int(s) == slots-1 {
			q := sqldb.Fill(insertMissing, "values", strings.Join(values, ","))
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
			values = values[:0]
		}
	}
	return nil
}

func stateValue(s sqldb.Slot, state sqldb.SlotState) string {
	return fmt.Sprintf("(%d, '%s')", s, state)
}

// SlotState implements sqldb.Slots.
func (Database) SlotState(ctx context.Context, tx *sql.Tx, s sqldb.Slot, by []string,
	readOnly bool) (at sqldb.SlotRow, err error) {
	lock := shareMode
	if readOnly {
		lock = ""
	}
	err = tx.QueryRowContext(ctx, selectSlot+lock, int(s)).Scan(&at.State, &at.Since)
	if errors.Is(err, sql.ErrNoRows) {
		return sqldb.SlotRow{State: sqldb.Gone}, nil
	}
	if err != nil {
		return at, err
	}
	rows, err := tx.QueryContext(ctx, selectPins+lock, int(s))
	err = sqldb.Each(rows, err, func() error {
		var text string
		err := rows.Scan(&text)
		if text == sqldb.JSONStrings(by) {
			at.State = sqldb.Gone // to a slot that the caller's map does not know
		}
		return err
	})
	return at, err
}

// SetState implements sqldb.Slots.
func (Database) SetState(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState) error {
	values := make([]string, len(slots))
	for i, s := range slots {
		values[i] = stateValue(s, state)
	}
	_, err := tx.ExecContext(ctx, sqldb.Fill(upsertState, "values", strings.Join(values, ",")))
	return err
}

// Own implements sqldb.Slots.
func (Database) Own(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState, since uint64) error {
	_, err := tx.ExecContext(ctx, sqldb.Fill(updateOwner, "slots", sqldb.JoinSlots(slots)), string(state), int64(since))
	return err
}

// Touch implements sqldb.Slots.
func (Database) Touch(ctx context.Context, tx *sql.Tx, s sqldb.Slot) error {
	_, err := tx.ExecContext(ctx, touchSlot, int(s))
	return err
}

// Pin implements sqldb.Slots.
func (Database) Pin(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table, p sqldb.PinRow) error {
	if _, err := tx.ExecContext(ctx, insertPin, int(p.Old), p.By, int(p.Slot)); err != nil {
		return err
	}
	var parts []string
	if err := json.Unmarshal([]byte(p.By), &parts); err != nil {
		return err
	}
	for _, t := range tables {
		args, key := []any{int(p.Slot), int(p.Old)}, ""
		for i, c := range t.Bys {
			key += sqldb.Fill(andKey, "col", quote(c.Name))
			args = append(args, parts[i])
		}
		q := sqldb.Fill(updatePinned, "table", t.Name, "slot", quote(t.SlotColumn), "key", key)
		if _, err := tx.ExecContext(ctx, q, args...); err != nil {
			return err
		}
	}
	return nil
}
