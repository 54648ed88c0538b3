package postgres

import (
	"context"
	"database/sql"
	"strconv"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	addSlot = `alter table {table} add column if not exists {slot} int`

	selectSlotIndex = `
select exists (
  select 1
  from pg_index i
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
  where i.indrelid = to_regclass($1)
  and a.attname = $2
  and i.indisvalid
)`
	dropSlotIndex   = `drop index concurrently if exists {index}`
	createSlotIndex = `create index concurrently {index} on {table} ({slot}, {keys})`

	selectNotNull = `
select attnotnull
from pg_attribute
where attrelid = to_regclass($1)
and attname = $2`

	selectUnslotted = `
select jsonb_build_array({keys})::text, jsonb_build_array({by})::text
from {table}
where {slot} is null
limit {n}`

	updateUnslotted = `
update {table} t
set {slot} = s.slot
from (
  select k.v, s.slot
  from jsonb_array_elements($1::text::jsonb) with ordinality k(v, o)
  join unnest($2::text::int[]) with ordinality s(slot, o) using (o)
) s
where {key}
and t.{slot} is null`

	lockReferences = `select pg_advisory_xact_lock(7412)`
	setSnapshot    = `set transaction isolation level repeatable read`
)

// requireSlot validates a check constraint while writers go on; SET NOT NULL then does not read the rows.
var requireSlot = []string{
	`alter table {table} drop constraint if exists {name}`,
	`alter table {table} add constraint {name} check ({slot} is not null) not valid`,
	`alter table {table} validate constraint {name}`,
	`alter table {table} alter column {slot} set not null`,
	`alter table {table} drop constraint {name}`,
}

// AddSlotColumn implements sqldb.Database: a column without a default is only a change of the catalog; the index is
// built concurrently, and anew if that was interrupted.
func (Database) AddSlotColumn(ctx context.Context, db *sql.DB, t *sqldb.Table) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	slot, index := sqldb.Quote(t.SlotColumn), function("slots", t.Name)
	if !t.HasSlot() {
		if _, err := conn.ExecContext(ctx, sqldb.Fill(addSlot, "table", t.Name, "slot", slot)); err != nil {
			return err
		}
	}
	var indexed bool
	err = conn.QueryRowContext(ctx, selectSlotIndex, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed {
		return err
	}
	if _, err := conn.ExecContext(ctx, sqldb.Fill(dropSlotIndex, "index", index)); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, sqldb.Fill(createSlotIndex, "index", index, "table", t.Name, "slot", slot, "keys",
		sqldb.Names(t.Keys, sqldb.Ident)))
	return err
}

// RequireSlot implements sqldb.Database.
func (Database) RequireSlot(ctx context.Context, db *sql.DB, t *sqldb.Table) error {
	var done bool
	err := db.QueryRowContext(ctx, selectNotNull, t.Name, t.SlotColumn).Scan(&done)
	if err != nil || done {
		return err
	}
	for _, q := range requireSlot {
		q = sqldb.Fill(q, "table", t.Name, "name", function("slotted", t.Name), "slot", sqldb.Quote(t.SlotColumn))
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// Unslotted implements sqldb.Database.
func (Database) Unslotted(ctx context.Context, tx *sql.Tx, t *sqldb.Table, n int) (pks, by []string, err error) {
	rows, err := tx.QueryContext(ctx, sqldb.Fill(selectUnslotted, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn),
		"keys", sqldb.Names(t.Keys, sqldb.Ident), "by", sqldb.Names(t.Bys, sqldb.Ident), "n", strconv.Itoa(n)))
	return sqldb.ReadPairs(rows, err)
}

// FillSlots implements sqldb.Database.
func (Database) FillSlots(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string,
	slots []sqldb.Slot) (int64, error) {
	q := sqldb.Fill(updateUnslotted, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn), "key", keyIs(t, "s.v"))
	res, err := tx.ExecContext(ctx, q, sqldb.JSONList(pks), slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// LockReferences implements sqldb.Database.
func (Database) LockReferences(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, lockReferences)
	return err
}

// Snapshot implements sqldb.Database.
func (Database) Snapshot(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, setSnapshot)
	return err
}
