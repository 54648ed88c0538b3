package shard

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// selectCols reads the stored values: a unary plus hides the declared type, by which drivers would convert.
func (t *tableInfo) selectCols() string {
	return names(t.cols, func(c string) string {
		return "+" + c
	}) + ", " + quote(t.SlotColumn) + ", json_array(" + names(t.keys, ident) + ")"
}

func (t *tableInfo) scan(rows *sql.Rows, more ...any) (r row, err error) {
	r.vals = make([]any, len(t.cols))
	dst := make([]any, 0, len(t.cols)+2+len(more))
	for i := range r.vals {
		dst = append(dst, &r.vals[i])
	}
	return r, rows.Scan(append(append(dst, &r.slot, &r.pk), more...)...)
}

func (d sqlite) chunk(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, after string, n int) (out []row,
	next string, err error) {
	slot, keys := quote(t.SlotColumn), names(t.keys, ident)
	q := `select ` + t.selectCols() + `, json_array(` + slot + `, ` + keys + `) from ` + t.Name + ` where ` +
		d.inSlots(slot, 1)
	args := []any{d.slotList(slots)}
	if after != "" {
		want := []string{"json_extract(?2, '$[0]')"}
		for i := range t.keys {
			want = append(want, fmt.Sprintf("json_extract(?2, '$[%d]')", i+1))
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
		r, err := t.scan(rows, &next)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return out, next, rows.Err()
}

func (sqlite) key(t *tableInfo) string {
	out := make([]string, len(t.keys))
	for i, k := range t.keys {
		out[i] = fmt.Sprintf("%s = json_extract(?1, '$[%d]')", quote(k.name), i)
	}
	return strings.Join(out, " and ")
}

func (d sqlite) dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) ([]dirtyKey, error) {
	return readDirty(ctx, tx, d, slots, n)
}

func (d sqlite) forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	return deleteDirty(ctx, tx, keys)
}

func (d sqlite) current(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) (out []row, err error) {
	for _, pk := range pks {
		rows, err := tx.QueryContext(ctx, `select `+t.selectCols()+` from `+t.Name+` where `+d.key(t), pk)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			r, err := t.scan(rows)
			if err != nil {
				_ = rows.Close()
				return nil, err
			}
			r.pk = pk // as the guard wrote it
			out = append(out, r)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d sqlite) upsert(ctx context.Context, tx *sql.Tx, t *tableInfo, rows []row) error {
	q := `insert into ` + t.Name + ` (` + names(t.cols, ident) + `) values (` +
		strings.TrimSuffix(strings.Repeat("?, ", len(t.cols)), ", ") + `)` + t.upsertTail()
	for _, r := range rows {
		if _, err := tx.ExecContext(ctx, q, r.vals...); err != nil {
			return err
		}
	}
	return nil
}

func (d sqlite) remove(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) error {
	for _, pk := range pks {
		if _, err := tx.ExecContext(ctx, `delete from `+t.Name+` where `+d.key(t), pk); err != nil {
			return err
		}
	}
	return nil
}

func (d sqlite) sums(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, into map[Slot]string) error {
	rows, err := tx.QueryContext(ctx, `select `+t.selectCols()+` from `+t.Name+` where `+
		d.inSlots(quote(t.SlotColumn), 1), d.slotList(slots))
	if err != nil {
		return err
	}
	defer rows.Close()
	type sum struct{ n, h uint64 }
	got := map[Slot]sum{}
	var h xxhash.Digest
	for rows.Next() {
		r, err := t.scan(rows)
		if err != nil {
			return err
		}
		h.Reset()
		for _, v := range r.vals {
			hashValue(&h, v)
		}
		s := got[r.slot]
		got[r.slot] = sum{s.n + 1, s.h + h.Sum64()} // a sum does not depend on the order of rows
	}
	for s, v := range got {
		into[s] += fmt.Sprintf("%s=%d:%x;", t.Name, v.n, v.h)
	}
	return rows.Err()
}

func hashValue(h *xxhash.Digest, v any) {
	var b [9]byte
	put := func(tag byte, n uint64) {
		b[0] = tag
		binary.LittleEndian.PutUint64(b[1:], n)
		_, _ = h.Write(b[:])
	}
	switch v := v.(type) {
	case nil:
		put('n', 0)
	case int64:
		put('i', uint64(v))
	case float64:
		put('f', math.Float64bits(v))
	case string:
		put('s', uint64(len(v)))
		_, _ = h.WriteString(v)
	case []byte:
		put('x', uint64(len(v)))
		_, _ = h.Write(v)
	default:
		s := fmt.Sprint(v)
		put('?', uint64(len(s)))
		_, _ = h.WriteString(s)
	}
}

func (d sqlite) clear(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, n int) (int64, error) {
	keys := names(t.keys, ident)
	res, err := tx.ExecContext(ctx, `delete from `+t.Name+` where (`+keys+`) in (select `+keys+` from `+t.Name+
		` where `+d.inSlots(quote(t.SlotColumn), 1)+` order by `+keys+` limit `+strconv.Itoa(n)+`)`, d.slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (sqlite) addSlotColumn(ctx context.Context, db *sql.DB, t *tableInfo) error {
	col := quote(t.SlotColumn)
	if !t.hasSlot() {
		if _, err := db.ExecContext(ctx, `alter table `+t.Name+` add column `+col+` integer`); err != nil {
			return err
		}
	}
	var indexed int
	err := db.QueryRowContext(ctx, `select count(*) from pragma_index_list(?1) l join pragma_index_info(l.name) i on i.seqno = 0 and lower(i.name) = lower(?2)`, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, `create index if not exists `+quote("tk_slots_"+t.Name)+` on `+t.Name+` (`+col+`, `+
		names(t.keys, ident)+`)`)
	return err
}

// requireSlot: SQLite cannot add NOT NULL to a column.
func (sqlite) requireSlot(context.Context, *sql.DB, *tableInfo) error { return nil }

func (sqlite) unslotted(ctx context.Context, tx *sql.Tx, t *tableInfo, n int) (pks, by []string, err error) {
	return readUnslotted(ctx, tx, t, quote(t.SlotColumn), `select json_array(`+names(t.keys, ident)+`), json_array(`+
		names(t.by, ident)+`)`, n)
}

func (d sqlite) fillSlots(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string, slots []Slot) (total int64,
	err error) {
	col := quote(t.SlotColumn)
	for i, pk := range pks {
		res, err := tx.ExecContext(ctx, `update `+t.Name+` set `+col+` = ?2 where `+d.key(t)+` and `+col+` is null`, pk,
			int(slots[i]))
		if err != nil {
			return total, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

func (sqlite) bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, `select page_count * page_size from pragma_page_count(), pragma_page_size()`).Scan(&n)
}

func (d sqlite) forgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	_, err := tx.ExecContext(ctx, `delete from tk_dirty where `+d.inSlots("slot", 1), d.slotList(slots))
	return err
}

func (d sqlite) place(ctx context.Context, tx *sql.Tx, job, table string) (string, error) {
	return places{d.bind}.place(ctx, tx, job, table)
}

func (d sqlite) setPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error {
	return places{d.bind}.setPlace(ctx, tx, job, table, place)
}

func (d sqlite) dropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	return places{d.bind}.dropPlaces(ctx, tx, job)
}

func (sqlite) all(ctx context.Context, tx *sql.Tx, t *tableInfo) (out []row, err error) {
	rows, err := tx.QueryContext(ctx, `select `+names(t.cols, func(c string) string {
		return "+" + c
	})+`, 0, json_array(`+names(t.keys, ident)+`) from `+t.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := t.scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// lockReferences: a write, since a transaction that began deferred has no lock yet.
func (sqlite) lockReferences(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `update tk_mover set active = active where id = 1`)
	return err
}

func (sqlite) snapshot(context.Context, *sql.Tx) error { return nil } // all are
