package shard

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

// key compares a table's key with the JSON array j.
func (postgres) key(t *tableInfo, alias, j string) string {
	out := make([]string, len(t.keys))
	for i, k := range t.keys {
		out[i] = fmt.Sprintf("%s.%s = (%s ->> %d)::%s", alias, quote(k.name), j, i, k.typ)
	}
	return strings.Join(out, " and ")
}

func (d postgres) chunk(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, after string, n int) (out []row,
	next string, err error) {
	slot := "t." + quote(t.SlotColumn)
	keys := names(t.keys, func(s string) string { return "t." + s })
	q := `select to_jsonb(t)::text, ` + slot + `, jsonb_build_array(` + keys + `)::text, jsonb_build_array(` + slot +
		`, ` + keys + `)::text from ` + t.Name + ` t where ` + d.inSlots(slot, 1)
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

func (d postgres) current(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) (out []row, err error) {
	rows, err := tx.QueryContext(ctx, `select to_jsonb(t)::text, t.`+quote(t.SlotColumn)+
		`, k.v::text from jsonb_array_elements($1::text::jsonb) k(v) join `+t.Name+` t on `+d.key(t, "t", "k.v"),
		jsonList(pks))
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
	_, err := tx.ExecContext(ctx, `insert into `+t.Name+` (`+cols+`) overriding system value select `+cols+
		` from jsonb_populate_recordset(null::`+t.Name+`, $1::text::jsonb)`+t.upsertTail(), jsonList(recs))
	return err
}

func (d postgres) remove(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) error {
	if len(pks) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `delete from `+t.Name+` t using jsonb_array_elements($1::text::jsonb) k(v) where `+
		d.key(t, "t", "k.v"), jsonList(pks))
	return err
}

func (d postgres) sums(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, into map[Slot]string) error {
	slot := "t." + quote(t.SlotColumn)
	rows, err := tx.QueryContext(ctx, `select `+slot+
		`, count(*) || ':' || sum(('x' || substr(md5(to_jsonb(t)::text), 1, 15))::bit(60)::bigint)::text from `+t.Name+
		` t where `+d.inSlots(slot, 1)+` group by 1`, d.slotList(slots))
	return readSums(t, into, rows, err)
}

func (d postgres) clear(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, n int) (int64, error) {
	res, err := tx.ExecContext(ctx, `delete from `+t.Name+` where ctid = any(array(select ctid from `+t.Name+` where `+
		d.inSlots(quote(t.SlotColumn), 1)+` limit `+strconv.Itoa(n)+`))`, d.slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// addSlotColumn: a column without a default is only a change of the catalogue; the index is built concurrently, and
// anew if that was interrupted.
func (d postgres) addSlotColumn(ctx context.Context, db *sql.DB, t *tableInfo) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !t.hasSlot() {
		if _, err := conn.ExecContext(ctx, `alter table `+t.Name+` add column if not exists `+quote(t.SlotColumn)+
			` int`); err != nil {
			return err
		}
	}
	index := pgFunction("slots", t.Name)
	var indexed bool
	err = conn.QueryRowContext(ctx, `select exists (select 1 from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] where i.indrelid = to_regclass($1) and a.attname = $2 and i.indisvalid)`,
		t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed {
		return err
	}
	if _, err := conn.ExecContext(ctx, `drop index concurrently if exists `+index); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, `create index concurrently `+index+` on `+t.Name+` (`+quote(t.SlotColumn)+`, `+
		names(t.keys, ident)+`)`)
	return err
}

// requireSlot validates a check constraint while writers go on; SET NOT NULL then needs no look at the rows.
func (postgres) requireSlot(ctx context.Context, db *sql.DB, t *tableInfo) error {
	var done bool
	if err := db.QueryRowContext(ctx, `select attnotnull from pg_attribute where attrelid = to_regclass($1) and attname = $2`, t.Name, t.SlotColumn).Scan(&done); err != nil || done {
		return err
	}
	name, col := pgFunction("slotted", t.Name), quote(t.SlotColumn)
	for _, q := range []string{
		`alter table ` + t.Name + ` drop constraint if exists ` + name,
		`alter table ` + t.Name + ` add constraint ` + name + ` check (` + col + ` is not null) not valid`,
		`alter table ` + t.Name + ` validate constraint ` + name,
		`alter table ` + t.Name + ` alter column ` + col + ` set not null`,
		`alter table ` + t.Name + ` drop constraint ` + name,
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (d postgres) unslotted(ctx context.Context, tx *sql.Tx, t *tableInfo, n int) (pks, by []string, err error) {
	return readUnslotted(ctx, tx, t, quote(t.SlotColumn), `select jsonb_build_array(`+names(t.keys, ident)+
		`)::text, jsonb_build_array(`+names(t.by, ident)+`)::text`, n)
}

func readUnslotted(ctx context.Context, tx *sql.Tx, t *tableInfo, slot, sel string, n int) (pks, by []string,
	err error) {
	rows, err := tx.QueryContext(ctx, sel+` from `+t.Name+` where `+slot+` is null limit `+strconv.Itoa(n))
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var pk, b string
		if err := rows.Scan(&pk, &b); err != nil {
			return nil, nil, err
		}
		pks, by = append(pks, pk), append(by, b)
	}
	return pks, by, rows.Err()
}

func (d postgres) fillSlots(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string, slots []Slot) (int64, error) {
	col := quote(t.SlotColumn)
	res, err := tx.ExecContext(ctx, `update `+t.Name+` t set `+col+` = s.slot
from (select k.v, s.slot from jsonb_array_elements($1::text::jsonb) with ordinality k(v, o) join unnest($2::text::int[]) with ordinality s(slot, o) using (o)) s
where `+d.key(t, "t", "s.v")+` and t.`+col+` is null`, jsonList(pks), d.slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (postgres) bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, `select pg_database_size(current_database())`).Scan(&n)
}

func (d postgres) forgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	_, err := tx.ExecContext(ctx, `delete from tk_dirty where `+d.inSlots("slot", 1), d.slotList(slots))
	return err
}

func (d postgres) place(ctx context.Context, tx *sql.Tx, job, table string) (string, error) {
	return places{d.bind}.place(ctx, tx, job, table)
}

func (d postgres) setPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error {
	return places{d.bind}.setPlace(ctx, tx, job, table, place)
}

func (d postgres) dropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	return places{d.bind}.dropPlaces(ctx, tx, job)
}

func (postgres) all(ctx context.Context, tx *sql.Tx, t *tableInfo) (out []row, err error) {
	rows, err := tx.QueryContext(ctx, `select to_jsonb(t)::text, jsonb_build_array(`+
		names(t.keys, func(s string) string {
			return "t." + s
		})+`)::text from `+t.Name+` t`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.json, &r.pk); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func (postgres) lockReferences(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(7412)`)
	return err
}

func (postgres) snapshot(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `set transaction isolation level repeatable read`)
	return err
}
