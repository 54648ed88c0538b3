package mariadb

import (
	"context"
	"database/sql"
	"strconv"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	addSlot         = `alter table {table} add column if not exists {slot} int`
	createSlotIndex = `create index tk_slots on {table} ({slot}, {keys})`
	requireSlot     = `alter table {table} modify {slot} int not null, lock=none`

	countSlotIndexes = `
select count(*)
from information_schema.statistics
where table_schema = database()
and table_name = ?
and column_name = ?
and seq_in_index = 1`

	selectNullable = `
select is_nullable
from information_schema.columns
where table_schema = database()
and table_name = ?
and column_name = ?`

	selectUnslotted = `
select json_array({keys}), json_array({by})
from {table}
where {slot} is null
limit {n}`

	updateUnslotted = `
update {table}
set {slot} = {to}
where ({keys}) in ({values})
and {slot} is null`
)

// AddSlotColumn implements sqldb.Database: both changes are made in place, without keeping writers out.
func (Database) AddSlotColumn(ctx context.Context, db *sql.DB, t *sqldb.Table) error {
	if _, err := db.ExecContext(ctx, fill(addSlot, t)); err != nil {
		return err
	}
	var indexed int
	err := db.QueryRowContext(ctx, countSlotIndexes, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, fill(createSlotIndex, t))
	return err
}

// RequireSlot implements sqldb.Database.
func (Database) RequireSlot(ctx context.Context, db *sql.DB, t *sqldb.Table) error {
	var nullable string
	err := db.QueryRowContext(ctx, selectNullable, t.Name, t.SlotColumn).Scan(&nullable)
	if err != nil || nullable == "NO" {
		return err
	}
	_, err = db.ExecContext(ctx, fill(requireSlot, t))
	return err
}

// Unslotted implements sqldb.Database.
func (Database) Unslotted(ctx context.Context, tx *sql.Tx, t *sqldb.Table, n int) (pks, by []string, err error) {
	rows, err := tx.QueryContext(ctx, fill(selectUnslotted, t, "by", names(t.Bys, ""), "n", strconv.Itoa(n)))
	return sqldb.ReadPairs(rows, err)
}

// FillSlots implements sqldb.Database.
func (Database) FillSlots(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string,
	slots []sqldb.Slot) (total int64, err error) {
	for i, pk := range pks {
		err := eachHundred(t, []string{pk}, func(values string, args []any) error {
			q := fill(updateUnslotted, t, "to", strconv.Itoa(int(slots[i])), "values", values)
			res, err := tx.ExecContext(ctx, q, args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// LockReferences implements sqldb.Database.
func (Database) LockReferences(ctx context.Context, tx *sql.Tx) error {
	var token int64
	return tx.QueryRowContext(ctx, lockToken).Scan(&token)
}

// Snapshot implements sqldb.Database: REPEATABLE READ is the default.
func (Database) Snapshot(context.Context, *sql.Tx) error { return nil }
