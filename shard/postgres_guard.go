package shard

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const pgSchema = `
create table if not exists tk_slot (slot int primary key, state text not null, since bigint not null default 0);
alter table tk_slot add column if not exists since bigint not null default 0;
create table if not exists tk_mover (id int primary key, token bigint not null);
create table if not exists tk_dirty (seq bigserial primary key, tbl text not null, slot int not null, pk jsonb not null);
create table if not exists tk_pin (hashed int not null, by jsonb not null, slot int not null, primary key (hashed, by));
create table if not exists tk_job (job text, tbl text, place text not null, primary key (job, tbl));
insert into tk_mover values (1, 0) on conflict do nothing;
create or replace function tk_guard() returns trigger language plpgsql as $tk$
declare rs jsonb[] := '{}'; r jsonb; s int; st text; keys int := tg_argv[2]::int;
begin
  if current_setting('tk.mover', true) = '1' then
    if tg_op = 'DELETE' then return old; end if;
    return new;
  end if;
  if tg_op <> 'INSERT' then rs := rs || to_jsonb(old); end if;
  if tg_op <> 'DELETE' then rs := rs || to_jsonb(new); end if;
  foreach r in array rs loop
    s := (r ->> tg_argv[0])::int;
    select state into st from tk_slot where slot = s for share;
    if st is null or st not in ('owned', 'capture') then
      raise exception 'tierkit: slot % is %', s, coalesce(st, 'unknown') using errcode = '55006';
    end if;
    if exists (select 1 from tk_pin p where p.hashed = s and p.by = (select jsonb_agg(r ->> a order by o) from unnest(tg_argv) with ordinality u(a, o) where o > 3 + keys)) then
      raise exception 'tierkit: the key is pinned and not in slot % any more', s using errcode = '55006';
    end if;
    if st = 'capture' then
      insert into tk_dirty (tbl, slot, pk)
        select tg_argv[1], s, jsonb_agg(r -> a order by o) from unnest(tg_argv) with ordinality u(a, o) where o > 3 and o <= 3 + keys;
    end if;
  end loop;
  if tg_op = 'DELETE' then return old; end if;
  return new;
end $tk$;
create or replace function tk_no_truncate() returns trigger language plpgsql as $tk$
begin
  raise exception 'tierkit: % cannot be truncated while slots move or are elsewhere; delete instead', tg_table_name using errcode = '0A000';
end $tk$;`

func (postgres) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(7411)`); err != nil { // "if not exists" races with itself
		return err
	}
	var have bool
	if err := tx.QueryRowContext(ctx, `select exists (select 1 from pg_attribute where attrelid = to_regclass('tk_slot') and attname = 'since')`).Scan(&have); err != nil {
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

func (postgres) guards(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error {
	rows, err := tx.QueryContext(ctx, `select slot from tk_slot where state <> 'owned' union select hashed from tk_pin`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var bits []byte
	for rows.Next() {
		var s int
		if err := rows.Scan(&s); err != nil {
			return err
		}
		for len(bits) <= s/8 {
			bits = append(bits, 0)
		}
		bits[s/8] |= 1 << (s % 8)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, t := range tables {
		guarded := func(r string) string {
			slot := r + "." + quote(t.SlotColumn)
			if len(bits) == 0 {
				return "false"
			}
			return fmt.Sprintf(`(case when %s between 0 and %d then get_bit('\x%s'::bytea, %s) = 1 else false end)`, slot, 8*len(bits)-1, hex.EncodeToString(bits), slot)
		}
		args := []string{literal(t.SlotColumn), literal(t.Name), literal(strconv.Itoa(len(t.keys)))}
		for _, k := range append(slices.Clone(t.keys), t.by...) {
			args = append(args, literal(k.name))
		}
		call := " execute function tk_guard(" + strings.Join(args, ", ") + ")"
		for _, q := range []string{
			`drop trigger if exists zz_tk_insert on ` + t.Name, `drop trigger if exists zz_tk_update on ` + t.Name,
			`drop trigger if exists zz_tk_delete on ` + t.Name, `drop trigger if exists zz_tk_truncate on ` + t.Name,
			`create trigger zz_tk_insert before insert on ` + t.Name + ` for each row when (` + guarded("new") + `)` + call,
			`create trigger zz_tk_update before update on ` + t.Name + ` for each row when (` + guarded("old") + ` or ` + guarded("new") + `)` + call,
			`create trigger zz_tk_delete before delete on ` + t.Name + ` for each row when (` + guarded("old") + `)` + call,
		} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		if len(bits) > 0 {
			if _, err := tx.ExecContext(ctx, `create trigger zz_tk_truncate before truncate on `+t.Name+` for each statement execute function tk_no_truncate()`); err != nil {
				return err
			}
		}
	}
	return nil
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
