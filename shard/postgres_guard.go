package shard

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

const pgSchema = `
create table if not exists tk_slot (slot int primary key, state text not null, since bigint not null default 0);
alter table tk_slot add column if not exists since bigint not null default 0;
create table if not exists tk_mover (id int primary key, token bigint not null);
create table if not exists tk_dirty (seq bigserial primary key, tbl text not null, slot int not null, pk jsonb not null);
create table if not exists tk_pin (hashed int not null, by jsonb not null, slot int not null, primary key (hashed, by));
create table if not exists tk_job (job text, tbl text, place text not null, primary key (job, tbl));
insert into tk_mover values (1, 0) on conflict do nothing;
create or replace function tk_no_truncate() returns trigger language plpgsql security definer set search_path from current as $tk$
begin
  if not exists (select 1 from tk_slot where state <> 'owned') then return null; end if;
  raise exception 'tierkit: % cannot be truncated while slots move or are elsewhere; delete instead', tg_table_name using errcode = '0A000';
end $tk$;`

func (postgres) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(7411)`); err != nil { // "if not exists" races with itself
		return err
	}
	var have bool
	if err := tx.QueryRowContext(ctx, `select to_regproc('tk_no_truncate') is not null`).Scan(&have); err != nil {
		return err
	}
	if !have {
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

// guards writes the triggers' functions anew, with a bitmap of the slots that are not simply owned: plpgsql parses it once per session, where a
// WHEN condition is parsed by every statement. Rows of other slots pay for a bit test, and UPDATE and DELETE for
// nothing while no slot that has rows here is guarded, because their triggers are disabled then. All locks are SHARE ROW EXCLUSIVE, which readers do not notice; the
// lock on the table, which is taken before, makes the writers that waited for it see the new function.
func (postgres) guards(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error {
	bits, busy, err := guardedSlots(ctx, tx)
	if err != nil {
		return err
	}
	var schema string
	var pins bool
	if err := tx.QueryRowContext(ctx, `select current_schema(), exists (select 1 from tk_pin)`).Scan(&schema, &pins); err != nil {
		return err
	}
	schema = quote(schema) // writers may have another search_path
	for _, t := range tables {
		slot := quote(t.SlotColumn)
		// Moving slots are the common case here: one statement locks the slot's state and notes the key.
		check := func(r string) string {
			slot := r + `.` + slot
			pinned := ""
			if pins {
				by := names(t.by, func(c string) string { return "to_jsonb(" + r + "." + c + ") #>> '{}'" })
				pinned = `if exists (select 1 from ` + schema + `.tk_pin p where p.hashed = ` + slot + ` and p.by = jsonb_build_array(` + by + `)) then
  raise exception 'tierkit: the key is pinned and not in slot % any more', ` + slot + ` using errcode = '55006';
end if;
`
			}
			return pinned + `insert into ` + schema + `.tk_dirty (tbl, slot, pk) select ` + literal(t.Name) + `, s.slot, jsonb_build_array(` + names(t.keys, func(c string) string { return r + "." + c }) + `)
  from (select slot from ` + schema + `.tk_slot where slot = ` + slot + ` and state = 'capture' for share) s;
if not found then
  select state into st from ` + schema + `.tk_slot where slot = ` + slot + ` for share;
  if st is null or st <> 'owned' then
    raise exception 'tierkit: slot % is %', ` + slot + `, coalesce(st, 'unknown') using errcode = '55006';
  end if;
end if;
`
		}
		same := []string{`old.` + slot + ` = new.` + slot}
		for _, k := range append(slices.Clone(t.keys), t.by...) {
			same = append(same, `old.`+quote(k.name)+` is not distinct from new.`+quote(k.name))
		}
		open := func(r string) string {
			return fmt.Sprintf(`(case when %s.%s between 0 and %d then get_bit('\x%s'::bytea, %s.%s) = 0 else false end)`, r, slot, 8*len(bits)-1, hex.EncodeToString(bits), r, slot)
		}
		var have, drop []string
		rows, err := tx.QueryContext(ctx, `select tgname, proname = 'tk_guard' from pg_trigger join pg_proc p on p.oid = tgfoid where tgrelid = to_regclass($1) and tgname like 'zz_tk_%'`, t.Name)
		if err != nil {
			return err
		}
		for rows.Next() {
			var name string
			var old bool // of a build that had one function for all tables
			if err := rows.Scan(&name, &old); err != nil {
				_ = rows.Close()
				return err
			}
			if have = append(have, name); old {
				drop = append(drop, name)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, name := range drop {
			if _, err := tx.ExecContext(ctx, `drop trigger `+name+` on `+t.Name); err != nil {
				return err
			}
			have = slices.DeleteFunc(have, func(h string) bool { return h == name })
		}
		const mover = ` or current_setting('tk.mover', true) = '1'`
		for _, g := range []struct{ name, event, body string }{
			{"insert", "before insert on %s for each row", `if ` + open("new") + mover + ` then return new; end if; ` + check("new") + ` return new;`},
			{"update", "before update on %s for each row", `if old.` + slot + ` = new.` + slot + ` and ` + open("new") + mover + ` then return new; end if;
if not (` + strings.Join(same, " and ") + `) then ` + check("old") + ` end if; ` + check("new") + ` return new;`},
			{"reslot", "before update on %s for each row when (old." + slot + " is distinct from new." + slot + ")", `if ` + open("new") + mover + ` then return new; end if; ` + check("new") + ` return new;`},
			{"delete", "before delete on %s for each row", `if ` + open("old") + mover + ` then return old; end if; ` + check("old") + ` return old;`},
			{"truncate", "before truncate on %s for each statement", ""},
		} {
			f := "tk_no_truncate"
			if g.body != "" {
				f = pgFunction(g.name, t.Name)
				if _, err := tx.ExecContext(ctx, `create or replace function `+f+`() returns trigger language plpgsql as $tk$ declare st text; begin `+g.body+` end $tk$`); err != nil {
					return err
				}
			}
			if !slices.Contains(have, "zz_tk_"+g.name) {
				if _, err := tx.ExecContext(ctx, `create trigger zz_tk_`+g.name+` `+fmt.Sprintf(g.event, t.Name)+` execute function `+f+`()`); err != nil {
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

// guardedSlots has a bit set for each slot that is not simply owned. busy: some of them have rows here, or a pinned key's name.
func guardedSlots(ctx context.Context, tx *sql.Tx) (bits []byte, busy bool, err error) {
	rows, err := tx.QueryContext(ctx, `select slot, state from tk_slot union all select hashed, 'pin' from tk_pin`)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var s int
		var state string
		if err := rows.Scan(&s, &state); err != nil {
			return nil, false, err
		}
		for len(bits) <= s/8 {
			bits = append(bits, 0)
		}
		if state != stateOwned {
			bits[s/8] |= 1 << (s % 8)
		}
		busy = busy || state != stateOwned && state != stateGone
	}
	return bits, busy, rows.Err()
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
	_, err := tx.ExecContext(ctx, `update tk_slot set state = $1, since = $2 where slot = any($3::text::int[])`, state, int64(since), d.slotList(slots))
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
		if _, err := tx.ExecContext(ctx, `update `+t.Name+` set `+col+` = $2 where `+col+` = $1 and `+strings.Join(same, " and "), int(old), int(slot), by); err != nil {
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
