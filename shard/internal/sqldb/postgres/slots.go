package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	selectSlot = `
select state, since, exists (select 1 from tk_pin where hashed = $1)
from tk_slot
where slot = $1`

	// Held until the end of the transaction: the slot cannot be given away meanwhile.
	shareSlot = selectSlot + `
for share of tk_slot`

	selectPinned = `
select exists (
  select 1
  from tk_pin
  where hashed = $1
  and by = $2::text::jsonb
)`

	upsertState = `
insert into tk_slot (slot, state)
select unnest($2::text::int[]), $1
on conflict (slot) do update set state = excluded.state`

	updateOwner = `
update tk_slot
set state = $1, since = $2
where slot = any($3::text::int[])`

	touchSlot = `
update tk_slot
set state = state
where slot = $1`

	insertPin = `
insert into tk_pin (hashed, by, slot)
values ($1, $2::text::jsonb, $3)
on conflict do nothing`

	updatePinned = `
update {table}
set {slot} = $2
where {slot} = $1
and {key}`
)

// SlotState implements sqldb.Slots.
func (Database) SlotState(ctx context.Context, tx *sql.Tx, s sqldb.Slot, by []string,
	readOnly bool) (at sqldb.SlotRow, err error) {
	q := shareSlot
	if readOnly {
		q = selectSlot
	}
	var pins bool
	err = tx.QueryRowContext(ctx, q, int(s)).Scan(&at.State, &at.Since, &pins)
	if errors.Is(err, sql.ErrNoRows) {
		return sqldb.SlotRow{State: sqldb.Gone}, nil
	}
	if err != nil || !pins {
		return at, err
	}
	err = tx.QueryRowContext(ctx, selectPinned, int(s), sqldb.JSONStrings(by)).Scan(&pins)
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
	for _, t := range tables {
		same := make([]string, len(t.Bys))
		for i, c := range t.Bys {
			same[i] = fmt.Sprintf("%s = ($3::text::jsonb ->> %d)::%s", sqldb.Quote(c.Name), i, c.Type)
		}
		q := sqldb.Fill(updatePinned, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn), "key",
			strings.Join(same, " and "))
		if _, err := tx.ExecContext(ctx, q, int(p.Old), int(p.Slot), p.By); err != nil {
			return err
		}
	}
	return nil
}
