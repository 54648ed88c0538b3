package shard

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Postgres is the dialect of PostgreSQL 12 and later.
//
// The guard is a row trigger with a WHEN condition over a bitmap of the slots that need it, so rows of other slots pay for one bit
// test. It reads the slot's state with SELECT ... FOR SHARE: a writer holds that lock until it commits, so a fence waits for
// writers in flight, and a REPEATABLE READ or SERIALIZABLE writer whose snapshot is older than the fence fails with 40001
// instead of slipping past it. TRUNCATE is refused while any slot is guarded.
func Postgres() Dialect { return postgres{} }

type postgres struct{}

func (postgres) Name() string { return "postgres" }

func (postgres) IsFenced(err error) bool {
	return sqlState(err) == "55006" && strings.Contains(err.Error(), "tierkit:")
}

func (postgres) IsRetryable(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01", "55P03":
		return true
	}
	return false
}

func (postgres) bind(q string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, ok := strings.Cut(q, "?")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		fmt.Fprintf(&b, "$%d", n)
		q = after
	}
}

func (postgres) slotList(slots []Slot) string { return "{" + joinSlots(slots) + "}" }
func (postgres) inSlots(col string, arg int) string {
	return fmt.Sprintf("%s = any($%d::text::int[])", col, arg)
}

func (postgres) slotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, readOnly bool) (at slotRow, err error) {
	q := `select state, since, exists (select 1 from tk_pin where hashed = $1) from tk_slot where slot = $1`
	if !readOnly { // held until the end: the slot cannot be given away under the transaction
		q += ` for share of tk_slot`
	}
	var pins bool
	err = tx.QueryRowContext(ctx, q, int(s)).Scan(&at.state, &at.since, &pins)
	if errors.Is(err, sql.ErrNoRows) {
		return slotRow{state: stateGone}, nil
	}
	if err != nil || !pins {
		return at, err
	}
	err = tx.QueryRowContext(ctx, `select exists (select 1 from tk_pin where hashed = $1 and by = $2::text::jsonb)`, int(s), jsonStrings(by)).Scan(&pins)
	if pins {
		at.state = stateGone // to a slot that the caller's map does not know
	}
	return at, err
}

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

func (postgres) begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, `update tk_mover set token = $1 where id = 1 and token <= $1`, int64(token))
	if err == nil {
		var n int64
		if n, err = res.RowsAffected(); err == nil && n != 1 {
			err = ErrMoverLost
		}
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `select set_config('tk.mover', '1', true), set_config('lock_timeout', $1, true), set_config('timezone', 'UTC', true)`,
			strconv.FormatInt(lockTimeout.Milliseconds(), 10))
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

func (postgres) commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

func (postgres) describe(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	info := &tableInfo{Table: t}
	rows, err := tx.QueryContext(ctx, `select attname, format_type(atttypid, atttypmod), attgenerated <> '' from pg_attribute
where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum`, t.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c column
		var generated bool
		if err := rows.Scan(&c.name, &c.typ, &generated); err != nil {
			return nil, err
		}
		if !generated {
			info.cols = append(info.cols, c)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(info.cols) == 0 {
		return nil, fmt.Errorf("%w: there is no table %s", ErrPreflight, t.Name)
	}
	if err := info.findKeys(); err != nil {
		return nil, err
	}
	var unique, indexed bool
	keys := make([]string, len(info.keys))
	for i, k := range info.keys {
		keys[i] = k.name
	}
	err = tx.QueryRowContext(ctx, `select
exists (select 1 from pg_index i where i.indrelid = to_regclass($1) and i.indisunique and i.indpred is null and
  (select array_agg(a.attname::text order by a.attname) from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) =
  (select array_agg(k order by k collate "C") from jsonb_array_elements_text($2::text::jsonb) k)),
exists (select 1 from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] where i.indrelid = to_regclass($1) and a.attname = $3)`,
		t.Name, jsonStrings(keys), t.SlotColumn).Scan(&unique, &indexed)
	if err != nil {
		return nil, err
	}
	if !unique {
		return nil, fmt.Errorf("%w: table %s has no primary key or unique index on %v", ErrPreflight, t.Name, t.Key)
	}
	if !indexed {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return info, nil
}

func jsonStrings(s []string) string {
	out := make([]string, len(s))
	for i, v := range s {
		b, _ := json.Marshal(v)
		out[i] = string(b)
	}
	return jsonList(out)
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

func (d postgres) own(ctx context.Context, tx *sql.Tx, slots []Slot, since uint64) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = 'owned', since = $1 where slot = any($2::text::int[])`, int64(since), d.slotList(slots))
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

// key compares a table's key with the JSON array j.
func (postgres) key(t *tableInfo, alias, j string) string {
	out := make([]string, len(t.keys))
	for i, k := range t.keys {
		out[i] = fmt.Sprintf("%s.%s = (%s ->> %d)::%s", alias, quote(k.name), j, i, k.typ)
	}
	return strings.Join(out, " and ")
}

func (d postgres) chunk(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, after string, n int) (out []row, next string, err error) {
	slot := "t." + quote(t.SlotColumn)
	keys := names(t.keys, func(s string) string { return "t." + s })
	q := `select to_jsonb(t)::text, ` + slot + `, jsonb_build_array(` + keys + `)::text, jsonb_build_array(` + slot + `, ` + keys + `)::text from ` + t.Name + ` t where ` + d.inSlots(slot, 1)
	args := []any{d.slotList(slots)}
	if after != "" {
		want := []string{"($2::text::jsonb ->> 0)::int"}
		for i, k := range t.keys {
			want = append(want, fmt.Sprintf("($2::text::jsonb ->> %d)::%s", i+1, k.typ))
		}
		q += ` and (` + slot + `, ` + keys + `) > (` + strings.Join(want, ", ") + `)`
		args = append(args, after)
	}
	q += ` order by ` + slot + `, ` + keys + ` limit ` + strconv.Itoa(n)
	rows, err := tx.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.json, &r.slot, &r.pk, &next); err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return out, next, rows.Err()
}

func (d postgres) dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) ([]dirtyKey, error) {
	return readDirty(ctx, tx, d, slots, n)
}

func (d postgres) forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	return deleteDirty(ctx, tx, keys)
}

func (d postgres) current(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) (out []row, err error) {
	rows, err := tx.QueryContext(ctx, `select to_jsonb(t)::text, t.`+quote(t.SlotColumn)+`, k.v::text from jsonb_array_elements($1::text::jsonb) k(v) join `+t.Name+` t on `+d.key(t, "t", "k.v"), jsonList(pks))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.json, &r.slot, &r.pk); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func (d postgres) upsert(ctx context.Context, tx *sql.Tx, t *tableInfo, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	recs := make([]string, len(rows))
	for i, r := range rows {
		recs[i] = r.json
	}
	cols := names(t.cols, ident)
	_, err := tx.ExecContext(ctx, `insert into `+t.Name+` (`+cols+`) overriding system value select `+cols+` from jsonb_populate_recordset(null::`+t.Name+`, $1::text::jsonb)`+t.upsertTail(), jsonList(recs))
	return err
}

func (d postgres) remove(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) error {
	if len(pks) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `delete from `+t.Name+` t using jsonb_array_elements($1::text::jsonb) k(v) where `+d.key(t, "t", "k.v"), jsonList(pks))
	return err
}

func (d postgres) sums(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, into map[Slot]string) error {
	slot := "t." + quote(t.SlotColumn)
	rows, err := tx.QueryContext(ctx, `select `+slot+`, count(*) || ':' || sum(('x' || substr(md5(to_jsonb(t)::text), 1, 15))::bit(60)::bigint)::text from `+t.Name+` t where `+d.inSlots(slot, 1)+` group by 1`, d.slotList(slots))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s Slot
		var sum string
		if err := rows.Scan(&s, &sum); err != nil {
			return err
		}
		into[s] += t.Name + "=" + sum + ";"
	}
	return rows.Err()
}

func (d postgres) clear(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, n int) (int64, error) {
	res, err := tx.ExecContext(ctx, `delete from `+t.Name+` where ctid = any(array(select ctid from `+t.Name+` where `+d.inSlots(quote(t.SlotColumn), 1)+` limit `+strconv.Itoa(n)+`))`, d.slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
