package postgres

import (
	"context"
	"database/sql"
	"slices"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	lockTable = `lock table {table} in share row exclusive mode`

	selectGuards = `
select tgname, proname = 'tk_guard'
from pg_trigger
join pg_proc p on p.oid = tgfoid
where tgrelid = to_regclass($1)
and tgname like 'zz_tk_%'`

	dropGuard   = `drop trigger {name} on {table}`
	createGuard = `create trigger {name} {event} execute function {function}()`
	ableGuard   = `alter table {table} {able} trigger {name}`

	createFunction = `
create or replace function {function}() returns trigger
language plpgsql as $tk$ declare st text; begin {body} end $tk$`

	selectSchemaName = `select current_schema()`

	selectDirtyIndex = `
select exists (
  select 1
  from pg_constraint
  where conrelid = 'tk_dirty'::regclass
  and conname = 'tk_dirty_pkey'
)`
	dropDirtyIndex = `alter table tk_dirty drop constraint tk_dirty_pkey`
)

// function is the quoted name of a table's guard function.
func function(kind, table string) string { return sqldb.Quote(sqldb.ObjectName(kind, table)) }

// Install implements sqldb.Mover: guards are made in transactions.
func (Database) Install(context.Context, *sql.DB, []*sqldb.Table) error { return nil }

// LockTables implements sqldb.Mover.
func (Database) LockTables(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) error {
	for _, t := range tables {
		if _, err := tx.ExecContext(ctx, sqldb.Fill(lockTable, "table", t.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Guards writes the triggers' functions anew and makes the triggers that are missing. UPDATE and DELETE cost nothing
// while no slot that has rows here is guarded, because their triggers are disabled then. All locks are SHARE ROW
// EXCLUSIVE, which readers do not notice; the lock on the table, which is taken before, makes the writers that waited
// for it see the new function.
func (d Database) Guards(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) error {
	if err := removeDirtyIndex(ctx, tx); err != nil {
		return err
	}
	busy, err := d.functions(ctx, tx, tables)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := triggers(ctx, tx, t, busy); err != nil {
			return err
		}
	}
	return nil
}

// trigger is one of a table's triggers. The one for all updates does the work of reslot too, so one of them is enabled.
type trigger struct {
	name, event string
	when        func(busy bool) bool // enabled; nil: always
}

var guardTriggers = []trigger{
	{"insert", "before insert on {table} for each row", nil},
	{"update", "before update on {table} for each row", func(busy bool) bool { return busy }},
	{"reslot", "before update on {table} for each row when (old.{slot} is distinct from new.{slot})",
		func(busy bool) bool { return !busy }},
	{"delete", "before delete on {table} for each row", func(busy bool) bool { return busy }},
	{"truncate", "before truncate on {table} for each statement", nil},
}

// triggers makes and enables the triggers of a table.
func triggers(ctx context.Context, tx *sql.Tx, t *sqldb.Table, busy bool) error {
	have, err := guardsOf(ctx, tx, t)
	if err != nil {
		return err
	}
	for _, g := range guardTriggers {
		f, name := function(g.name, t.Name), "zz_tk_"+g.name
		if g.name == "truncate" {
			f = "tk_no_truncate"
		}
		if !slices.Contains(have, name) {
			event := sqldb.Fill(g.event, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn))
			q := sqldb.Fill(createGuard, "name", name, "event", event, "function", f)
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		if g.when == nil {
			continue
		}
		able := "disable"
		if g.when(busy) {
			able = "enable"
		}
		q := sqldb.Fill(ableGuard, "table", t.Name, "able", able, "name", name)
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// guardsOf returns the names of our triggers on a table. Those of a build that had one function for all tables are
// dropped.
func guardsOf(ctx context.Context, tx *sql.Tx, t *sqldb.Table) (have []string, err error) {
	var drop []string
	rows, err := tx.QueryContext(ctx, selectGuards, t.Name)
	err = sqldb.Each(rows, err, func() error {
		var name string
		var old bool
		err := rows.Scan(&name, &old)
		if old {
			drop = append(drop, name)
		} else {
			have = append(have, name)
		}
		return err
	})
	for _, name := range drop {
		if err == nil {
			_, err = tx.ExecContext(ctx, sqldb.Fill(dropGuard, "name", name, "table", t.Name))
		}
	}
	return have, err
}

// functions writes the triggers' functions anew, with bitmaps of the slots that are not simply owned and of those whose
// keys are noted without a lock (see tk_quick): plpgsql parses them once per session, where a WHEN condition is parsed
// by every statement. Rows of other slots pay for a bit test. busy is as guardedSlots has it.
func (Database) functions(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) (busy bool, err error) {
	guarded, err := guardedSlots(ctx, tx)
	if err != nil {
		return false, err
	}
	var schema string
	if err := tx.QueryRowContext(ctx, selectSchemaName).Scan(&schema); err != nil {
		return false, err
	}
	for _, t := range tables {
		for _, g := range guarded.bodies(t, sqldb.Quote(schema)) { // writers may have another search_path
			q := sqldb.Fill(createFunction, "function", function(g.event, t.Name), "body", g.body)
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return false, err
			}
		}
	}
	return guarded.busy, nil
}

// removeDirtyIndex is for the table of a build that had one. No key can be noted meanwhile: the tables are locked.
func removeDirtyIndex(ctx context.Context, tx *sql.Tx) error {
	var have bool
	err := tx.QueryRowContext(ctx, selectDirtyIndex).Scan(&have)
	if err == nil && have {
		_, err = tx.ExecContext(ctx, dropDirtyIndex)
	}
	return err
}
