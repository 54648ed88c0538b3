package sqlite

import (
	"context"
	"database/sql"
	"strconv"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	addSlot         = `alter table {table} add column {slot} integer`
	createSlotIndex = `create index if not exists {name} on {table} ({slot}, {keys})`

	selectUnslotted = `
select json_array({keys}), json_array({by})
from {table}
where {slot} is null
limit {n}`

	updateUnslotted = `
update {table}
set {slot} = ?2
where {key}
and {slot} is null`

	// A write, since a transaction that began deferred has no lock yet.
	lockReferences = `update tk_mover set active = active where id = 1`
)

// AddSlotColumn implements sqldb.Database.
func (Database) AddSlotColumn(ctx context.Context, db *sql.DB, t *sqldb.Table) error {
	if !t.HasSlot() {
		if _, err := db.ExecContext(ctx, fill(addSlot, t)); err != nil {
			return err
		}
	}
	var indexed int
	err := db.QueryRowContext(ctx, countSlotIndexes, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, fill(createSlotIndex, t, "name", sqldb.Quote("tk_slots_"+t.Name)))
	return err
}

// RequireSlot implements sqldb.Database: SQLite cannot add NOT NULL to a column.
func (Database) RequireSlot(context.Context, *sql.DB, *sqldb.Table) error { return nil }

// Unslotted implements sqldb.Database.
func (Database) Unslotted(ctx context.Context, tx *sql.Tx, t *sqldb.Table, n int) (pks, by []string, err error) {
	rows, err := tx.QueryContext(ctx, fill(selectUnslotted, t, "by", sqldb.Names(t.Bys, sqldb.Ident), "n",
		strconv.Itoa(n)))
	return sqldb.ReadPairs(rows, err)
}

// FillSlots implements sqldb.Database.
func (Database) FillSlots(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string,
	slots []sqldb.Slot) (total int64, err error) {
	q := fill(updateUnslotted, t)
	for i, pk := range pks {
		res, err := tx.ExecContext(ctx, q, pk, int(slots[i]))
		if err != nil {
			return total, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// LockReferences implements sqldb.Database.
func (Database) LockReferences(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, lockReferences)
	return err
}

// Snapshot implements sqldb.Database: all transactions have one.
func (Database) Snapshot(context.Context, *sql.Tx) error { return nil }
