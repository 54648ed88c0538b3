package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	slotState = `(select state from tk_slot where slot = {row}.{slot})`

	isGuarded = `coalesce(` + slotState + `, 'gone') <> 'owned'
  or exists (select 1 from tk_pin where hashed = {row}.{slot})`

	guardRow = `select raise(abort, 'tierkit: slot is being moved or lives elsewhere')
where coalesce(` + slotState + `, 'gone') not in ('owned', 'capture');
select raise(abort, 'tierkit: slot of a pinned key')
from tk_pin
where {key};
insert into tk_dirty (tbl, slot, pk)
select {text}, {row}.{slot}, json_array({keys})
where ` + slotState + ` = 'capture';
`

	createGuard = `
create trigger if not exists {name} after {op} on {table}
when (select active from tk_mover where id = 1) = 0 and ({guarded})
begin
{body}end`
)

// guarded are the rows that the trigger of an operation looks at.
var guarded = []struct {
	op   string
	rows []string
}{{"insert", []string{"new"}}, {"update", []string{"old", "new"}}, {"delete", []string{"old"}}}

// Install implements sqldb.Mover: guards are made in transactions.
func (Database) Install(context.Context, *sql.DB, []*sqldb.Table) error { return nil }

// LockTables implements sqldb.Mover: the mover's transaction has the write lock.
func (Database) LockTables(context.Context, *sql.Tx, []*sqldb.Table) error { return nil }

// Guards implements sqldb.Mover.
func (Database) Guards(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) error {
	for _, t := range tables {
		for _, g := range guarded {
			when, body := make([]string, len(g.rows)), ""
			for i, r := range g.rows {
				when[i] = sqldb.Fill(isGuarded, "row", r, "slot", sqldb.Quote(t.SlotColumn))
				body += guardBody(t, r)
			}
			q := sqldb.Fill(createGuard, "name", sqldb.Quote("tk_guard_"+t.Name+"_"+g.op), "op", g.op, "table", t.Name,
				"guarded", strings.Join(when, " or "), "body", body)
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func guardBody(t *sqldb.Table, row string) string {
	slot := sqldb.Quote(t.SlotColumn)
	same := []string{"hashed = " + row + "." + slot}
	for i, c := range t.Bys {
		same = append(same, fmt.Sprintf("json_extract(by, '$[%d]') = cast(%s.%s as text)", i, row, sqldb.Quote(c.Name)))
	}
	keys := sqldb.Names(t.Keys, func(c string) string { return row + "." + c })
	return sqldb.Fill(guardRow, "row", row, "slot", slot, "key", strings.Join(same, " and "), "text",
		sqldb.Literal(t.Name), "keys", keys)
}
