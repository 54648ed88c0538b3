package shard

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

const pgSchema = `
create table if not exists tk_slot (slot int primary key, state text not null, since bigint not null default 0);
alter table tk_slot add column if not exists since bigint not null default 0;
create table if not exists tk_mover (id int primary key, token bigint not null);
create table if not exists tk_dirty (seq bigserial, tbl text not null, slot int not null, pk jsonb not null);
create table if not exists tk_quick (slot int primary key);
create table if not exists tk_pin (hashed int not null, by jsonb not null, slot int not null, primary key (hashed, by));
create table if not exists tk_job (job text, tbl text, place text not null, primary key (job, tbl));
insert into tk_mover values (1, 0) on conflict do nothing;
create or replace function tk_no_truncate() returns trigger language plpgsql security definer set search_path from current as $tk$
begin
  if not exists (select 1 from tk_slot where state <> 'owned') then return null; end if;
  raise exception 'tierkit: % cannot be truncated while slots move or are elsewhere; delete instead', tg_table_name using errcode = '0A000';
end $tk$;
create or replace function tk_quick_first() returns trigger language plpgsql as $tk$
begin
  if not exists (select 1 from tk_quick) then return null; end if; -- while writers wait
  if not exists (select 1 from tk_quick q join tk_slot s on s.slot = q.slot where s.state <> 'capture') then return null; end if;
  raise exception 'tierkit: keys of these slots are noted without a lock: their writers must be waited for before the state changes' using errcode = '55000';
end $tk$;
drop trigger if exists zz_tk_quick on tk_slot;
create trigger zz_tk_quick after update on tk_slot for each statement execute function tk_quick_first();
alter sequence tk_dirty_seq_seq cache 1000;
alter table tk_slot add column if not exists held boolean;
grant select, update (held) on tk_slot to public;
grant select on tk_pin to public;
grant insert on tk_dirty to public;
grant usage on sequence tk_dirty_seq_seq to public;`

func (postgres) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	// "if not exists" races with itself
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(7411)`); err != nil {
		return err
	}
	var have bool
	if err := tx.QueryRowContext(ctx, `select to_regproc('tk_quick_first') is not null`).Scan(&have); err != nil {
		return err
	}
	if !have {
		// tables of an earlier build are in use
		if _, err := tx.ExecContext(ctx, `set local lock_timeout = '200ms'`); err != nil {
			return err
		}
		for _, q := range splitSchema(pgSchema) {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	var n int
	if err := tx.QueryRowContext(ctx, `select count(*) from tk_slot`).Scan(&n); err != nil || n >= slots {
		return err
	}
	_, err := tx.ExecContext(ctx, `insert into tk_slot (slot, state) select s, case when o.x is null then 'gone' else 'owned' end
from generate_series(0, $1::int - 1) s left join (select unnest($2::text::int[]) x) o on o.x = s on conflict do nothing`, slots, postgres{}.slotList(owned))
	return err
}

// splitSchema cuts at the semicolons that end a line outside of $tk$ bodies.
func splitSchema(text string) (out []string) {
	var b strings.Builder
	body := false
	for _, line := range strings.Split(text, "\n") {
		if strings.Count(line, "$tk$")%2 == 1 {
			body = !body
		}
		b.WriteString(line + "\n")
		if !body && strings.HasSuffix(line, ";") {
			out = append(out, b.String())
			b.Reset()
		}
	}
	return out
}

func (postgres) lockTables(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error {
	for _, t := range tables {
		if _, err := tx.ExecContext(ctx, `lock table `+t.Name+` in share row exclusive mode`); err != nil {
			return err
		}
	}
	return nil
}

// guards writes the triggers' functions anew and sees to it that there are triggers. UPDATE and DELETE cost nothing
// while no slot that has rows here is guarded, because their triggers are disabled then. All locks are SHARE ROW
// EXCLUSIVE, which readers do not notice; the lock on the table, which is taken before, makes the writers that waited
// for it see the new function.
func (d postgres) guards(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error {
	if err := dropDirtyIndex(ctx, tx); err != nil {
		return err
	}
	busy, err := d.functions(ctx, tx, tables)
	if err != nil {
		return err
	}
	for _, t := range tables {
		have, err := guardsOf(ctx, tx, t)
		if err != nil {
			return err
		}
		slot := quote(t.SlotColumn)
		for _, g := range []struct{ name, event string }{
			{"insert", "before insert on %s for each row"},
			{"update", "before update on %s for each row"},
			{"reslot", "before update on %s for each row when (old." + slot + " is distinct from new." + slot + ")"},
			{"delete", "before delete on %s for each row"},
			{"truncate", "before truncate on %s for each statement"},
		} {
			f := "tk_no_truncate"
			if g.name != "truncate" {
				f = pgFunction(g.name, t.Name)
			}
			if !slices.Contains(have, "zz_tk_"+g.name) {
				if _, err := tx.ExecContext(ctx, `create trigger zz_tk_`+g.name+` `+fmt.Sprintf(g.event, t.Name)+
					` execute function `+f+`()`); err != nil {
					return err
				}
			}
			if g.name == "update" || g.name == "delete" || g.name == "reslot" {
				able := "disable"
				if busy != (g.name == "reslot") { // the one for all updates does its work too
					able = "enable"
				}
				if _, err := tx.ExecContext(ctx, `alter table `+t.Name+` `+able+` trigger zz_tk_`+g.name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// guardsOf returns the names of a table's triggers of ours; those of a build that had one function for all tables are
// dropped.
func guardsOf(ctx context.Context, tx *sql.Tx, t *tableInfo) (have []string, err error) {
	var drop []string
	rows, err := tx.QueryContext(ctx, `select tgname, proname = 'tk_guard' from pg_trigger join pg_proc p on p.oid = tgfoid where tgrelid = to_regclass($1) and tgname like 'zz_tk_%'`, t.Name)
	err = each(rows, err, func() error {
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
			_, err = tx.ExecContext(ctx, `drop trigger `+name+` on `+t.Name)
		}
	}
	return have, err
}

// functions writes the triggers' functions anew, with bitmaps of the slots that are not simply owned and of those whose
// keys are noted without a lock (see tk_quick): plpgsql parses them once per session, where a WHEN condition is parsed
// by every statement. Rows of other slots pay for a bit test. busy as guardedSlots has it.
func (postgres) functions(ctx context.Context, tx *sql.Tx, tables []*tableInfo) (busy bool, err error) {
	guarded, err := guardedSlots(ctx, tx)
	if err != nil {
		return false, err
	}
	var schema string
	if err := tx.QueryRowContext(ctx, `select current_schema()`).Scan(&schema); err != nil {
		return false, err
	}
	for _, t := range tables {
		for _, g := range guarded.bodies(t, quote(schema)) { // writers may have another search_path
			if _, err := tx.ExecContext(ctx, `create or replace function `+pgFunction(g.event, t.Name)+
				`() returns trigger language plpgsql as $tk$ declare st text; begin `+g.body+` end $tk$`); err != nil {
				return false, err
			}
		}
	}
	return guarded.busy, nil
}

// pgFunction is the name of a table's guard function, at most 63 bytes.
func pgFunction(op, table string) string {
	return quote(fmt.Sprintf("tk_%s_%08x_%s", op, uint32(xxhash.Sum64String(table)), table[:min(len(table), 32)]))
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func (d postgres) setState(ctx context.Context, tx *sql.Tx, slots []Slot, state string) error {
	_, err := tx.ExecContext(ctx, `insert into tk_slot (slot, state) select unnest($2::text::int[]), $1 on conflict (slot) do update set state = excluded.state`, state, d.slotList(slots))
	return err
}

func (d postgres) own(ctx context.Context, tx *sql.Tx, slots []Slot, state string, since uint64) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = $1, since = $2 where slot = any($3::text::int[])`, state,
		int64(since), d.slotList(slots))
	return err
}

func (postgres) touch(ctx context.Context, tx *sql.Tx, s Slot) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = state where slot = $1`, int(s))
	return err
}

func (d postgres) pin(ctx context.Context, tx *sql.Tx, tables []*tableInfo, old, slot Slot, by string) error {
	if _, err := tx.ExecContext(ctx, `insert into tk_pin (hashed, by, slot) values ($1, $2::text::jsonb, $3) on conflict do nothing`, int(old), by, int(slot)); err != nil {
		return err
	}
	for _, t := range tables {
		same := make([]string, len(t.by))
		for i, c := range t.by {
			same[i] = fmt.Sprintf("%s = ($3::text::jsonb ->> %d)::%s", quote(c.name), i, c.typ)
		}
		col := quote(t.SlotColumn)
		if _, err := tx.ExecContext(ctx, `update `+t.Name+` set `+col+` = $2 where `+col+` = $1 and `+
			strings.Join(same, " and "), int(old), int(slot), by); err != nil {
			return err
		}
	}
	return nil
}

func (postgres) install(context.Context, *sql.DB, []*tableInfo) error { return nil }
func (postgres) abort(tx *sql.Tx)                                     { _ = tx.Rollback() }
func (postgres) quote(name string) string                             { return quote(name) }
func (postgres) textKey() string                                      { return "text" }
func (postgres) longText() string                                     { return "text" }
func (postgres) ddlInTx() bool                                        { return true }
