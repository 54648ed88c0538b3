package postgres

import (
	"context"
	"database/sql"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// schema makes the state tables and the functions that are the same for all tables. A writer needs no rights on them
// but those that PUBLIC is given here: to read and to lock slot states and pins, and to note keys.
const schema = `
create table if not exists tk_slot (
  slot int primary key,
  state text not null,
  since bigint not null default 0
);
alter table tk_slot add column if not exists since bigint not null default 0;
create table if not exists tk_mover (
  id int primary key,
  token bigint not null
);
create table if not exists tk_dirty (
  seq bigserial,
  tbl text not null,
  slot int not null,
  pk jsonb not null
);
create table if not exists tk_quick (
  slot int primary key
);
create table if not exists tk_pin (
  hashed int not null,
  by jsonb not null,
  slot int not null,
  primary key (hashed, by)
);
create table if not exists tk_job (
  job text,
  tbl text,
  place text not null,
  primary key (job, tbl)
);
insert into tk_mover values (1, 0) on conflict do nothing;
create or replace function tk_no_truncate() returns trigger
language plpgsql security definer set search_path from current as $tk$
begin
  if not exists (select 1 from tk_slot where state <> 'owned') then
    return null;
  end if;
  raise exception 'tierkit: % cannot be truncated while slots move or are elsewhere; delete instead', tg_table_name
    using errcode = '0A000';
end $tk$;
create or replace function tk_quick_first() returns trigger
language plpgsql as $tk$
begin
  if not exists (select 1 from tk_quick) then -- while writers wait
    return null;
  end if;
  if not exists (
    select 1
    from tk_quick q
    join tk_slot s on s.slot = q.slot
    where s.state <> 'capture'
  ) then
    return null;
  end if;
  raise exception 'tierkit: % noted without a lock: their writers must be waited for before the state changes',
    'keys of these slots are'
    using errcode = '55000';
end $tk$;
drop trigger if exists zz_tk_quick on tk_slot;
create trigger zz_tk_quick after update on tk_slot for each statement execute function tk_quick_first();
alter sequence tk_dirty_seq_seq cache 1000;
alter table tk_slot add column if not exists held boolean;
grant select, update (held) on tk_slot to public;
grant select on tk_pin to public;
grant insert on tk_dirty to public;
grant usage on sequence tk_dirty_seq_seq to public;`

const (
	lockSchema    = `select pg_advisory_xact_lock(7411)` // "if not exists" races with itself
	selectSchema  = `select to_regproc('tk_quick_first') is not null`
	boundSchema   = `set local lock_timeout = '200ms'` // tables of an earlier build are in use
	countSlots    = `select count(*) from tk_slot`
	insertMissing = `
insert into tk_slot (slot, state)
select s, case when o.x is null then 'gone' else 'owned' end
from generate_series(0, $1::int - 1) s
left join (select unnest($2::text::int[]) x) o on o.x = s
on conflict do nothing`
)

// Prepare implements sqldb.Slots.
func (Database) Prepare(ctx context.Context, tx *sql.Tx, slots int, owned []sqldb.Slot) error {
	if _, err := tx.ExecContext(ctx, lockSchema); err != nil {
		return err
	}
	var have bool
	if err := tx.QueryRowContext(ctx, selectSchema).Scan(&have); err != nil {
		return err
	}
	if !have {
		for _, q := range append([]string{boundSchema}, splitSchema(schema)...) {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	var n int
	if err := tx.QueryRowContext(ctx, countSlots).Scan(&n); err != nil || n >= slots {
		return err
	}
	_, err := tx.ExecContext(ctx, insertMissing, slots, slotList(owned))
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
