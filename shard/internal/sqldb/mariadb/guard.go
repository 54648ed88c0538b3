package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	countTriggers = `
select count(*)
from information_schema.triggers
where trigger_schema = database()
and trigger_name = ?`

	createTrigger = `
create trigger if not exists {name} before {op} on {table} for each row
begin
  declare st varchar(16) default null;
  if @tk_mover is null then
{body}  end if;
end`

	guardRow = `set st = null;
select state into st from tk_slot where slot = {row}.{slot} lock in share mode;
if st is null or st not in ('owned', 'capture') then
  signal sqlstate '45000' set message_text = 'tierkit: slot is being moved or lives elsewhere';
end if;
if exists (select 1 from tk_pin where {key}) then
  signal sqlstate '45000' set message_text = 'tierkit: slot of a pinned key';
end if;
if st = 'capture' then
  insert into tk_dirty (tbl, slot, pk) values ({text}, {row}.{slot}, json_array({keys}));
end if;
`
	sameKey = "json_value(`by`, '$[{i}]') = cast({row}.{col} as char character set utf8mb4) collate utf8mb4_bin"
)

// guarded are the rows that the trigger of an operation looks at.
var guarded = []struct {
	op   string
	rows []string
}{{"insert", []string{"new"}}, {"update", []string{"old", "new"}}, {"delete", []string{"old"}}}

// LockTables implements sqldb.Mover: Install waited for older writers.
func (Database) LockTables(context.Context, *sql.Tx, []*sqldb.Table) error { return nil }

// Guards implements sqldb.Mover: Install made them.
func (Database) Guards(context.Context, *sql.Tx, []*sqldb.Table) error { return nil }

// Install makes the guards that are missing. CREATE TRIGGER waits for all transactions that have used the table, so
// afterwards every writer has them.
func (Database) Install(ctx context.Context, db *sql.DB, tables []*sqldb.Table) error {
	for _, t := range tables {
		for _, g := range guarded {
			body, name := "", sqldb.ObjectName(g.op, t.Name)
			for _, r := range g.rows {
				body += guardBody(t, r)
			}
			var n int
			if err := db.QueryRowContext(ctx, countTriggers, name).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				continue
			}
			q := sqldb.Fill(createTrigger, "name", quote(name), "op", g.op, "table", t.Name, "body", body)
			if _, err := db.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func guardBody(t *sqldb.Table, row string) string {
	slot := quote(t.SlotColumn)
	same := []string{"hashed = " + row + "." + slot}
	for i, c := range t.Bys {
		same = append(same, sqldb.Fill(sameKey, "i", fmt.Sprint(i), "row", row, "col", quote(c.Name)))
	}
	return sqldb.Fill(guardRow, "row", row, "slot", slot, "key", strings.Join(same, " and "), "text",
		sqldb.Literal(t.Name), "keys", names(t.Keys, row+"."))
}
