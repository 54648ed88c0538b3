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
