package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// {stored} are the columns with a unary plus, which hides the declared type, by which drivers would convert.
const (
	selectChunk = `
select {stored}, {slot}, json_array({keys}), json_array({slot}, {keys})
from {table}
where {slot} in (select value from json_each(?1))
{behind}
order by {slot}, {keys}
limit {n}`

	selectCurrent = `
select {stored}, {slot}, json_array({keys})
from {table}
where {key}`

	selectAll = `
select {stored}, 0, json_array({keys})
from {table}`

	selectSlots = `
select {stored}, {slot}, json_array({keys})
from {table}
where {slot} in (select value from json_each(?1))`

	upsertRow = `
insert into {table} ({cols})
values ({marks})
{conflict}`

	deleteRow = `
delete from {table}
where {key}`

	clearRows = `
delete from {table}
where ({keys}) in (
  select {keys}
  from {table}
  where {slot} in (select value from json_each(?1))
  order by {keys}
  limit {n}
)`
)

// fill writes a statement about rows of a table.
func fill(query string, t *sqldb.Table, more ...string) string {
	return sqldb.Fill(query, append([]string{
		"table", t.Name,
		"slot", sqldb.Quote(t.SlotColumn),
		"keys", sqldb.Names(t.Keys, sqldb.Ident),
		"stored", sqldb.Names(t.Cols, func(c string) string { return "+" + c }),
		"key", keyIs(t),
	}, more...)...)
}

// keyIs compares a table's key with the JSON array ?1.
func keyIs(t *sqldb.Table) string {
	out := make([]string, len(t.Keys))
	for i, k := range t.Keys {
		out[i] = fmt.Sprintf("%s = json_extract(?1, '$[%d]')", sqldb.Quote(k.Name), i)
	}
	return strings.Join(out, " and ")
}

// query reads rows; with next each has its place behind it.
func query(ctx context.Context, tx *sql.Tx, t *sqldb.Table, next *string, q string,
	args ...any) (out []sqldb.Row, err error) {
	rows, err := tx.QueryContext(ctx, q, args...)
	err = sqldb.Each(rows, err, func() error {
		r, err := t.Scan(rows, next)
		out = append(out, r)
		return err
	})
	return out, err
}

// Chunk implements sqldb.Rows.
func (Database) Chunk(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, after string,
	n int) (out []sqldb.Row, next string, err error) {
	args, behind := []any{slotList(slots)}, ""
	if after != "" {
		want := []string{"json_extract(?2, '$[0]')"}
		for i := range t.Keys {
			want = append(want, fmt.Sprintf("json_extract(?2, '$[%d]')", i+1))
		}
		behind = sqldb.Fill(`and ({slot}, {keys}) > ({want})`, "slot", sqldb.Quote(t.SlotColumn), "keys",
			sqldb.Names(t.Keys, sqldb.Ident), "want", strings.Join(want, ", "))
		args = append(args, after)
	}
	out, err = query(ctx, tx, t, &next, fill(selectChunk, t, "behind", behind, "n", strconv.Itoa(n)), args...)
	return out, next, err
}

// Current implements sqldb.Rows.
func (Database) Current(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) (out []sqldb.Row, err error) {
	q := fill(selectCurrent, t)
	for _, pk := range pks {
		rows, err := query(ctx, tx, t, nil, q, pk)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			r.PK = pk // as the guard wrote it
			out = append(out, r)
		}
	}
	return out, nil
}

// All implements sqldb.Database.
func (Database) All(ctx context.Context, tx *sql.Tx, t *sqldb.Table) ([]sqldb.Row, error) {
	return query(ctx, tx, t, nil, fill(selectAll, t))
}

// Upsert implements sqldb.Rows.
func (Database) Upsert(ctx context.Context, tx *sql.Tx, t *sqldb.Table, rows []sqldb.Row) error {
	q := fill(upsertRow, t, "cols", sqldb.Names(t.Cols, sqldb.Ident), "marks",
		strings.TrimSuffix(strings.Repeat("?, ", len(t.Cols)), ", "), "conflict", t.OnConflictUpdate())
	for _, r := range rows {
		if _, err := tx.ExecContext(ctx, q, r.Vals...); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements sqldb.Rows.
func (Database) Remove(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) error {
	q := fill(deleteRow, t)
	for _, pk := range pks {
		if _, err := tx.ExecContext(ctx, q, pk); err != nil {
			return err
		}
	}
	return nil
}

// Dirty implements sqldb.Notes.
func (d Database) Dirty(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, n int) ([]sqldb.DirtyKey, error) {
	return sqldb.ReadDirty(ctx, tx, d, slots, n)
}

// Forget implements sqldb.Notes.
func (Database) Forget(ctx context.Context, tx *sql.Tx, keys []sqldb.DirtyKey) error {
	return sqldb.DeleteDirty(ctx, tx, keys)
}

const deleteDirtySlots = `delete from tk_dirty where slot in (select value from json_each(?1))`

// ForgetSlots implements sqldb.Notes.
func (Database) ForgetSlots(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	_, err := tx.ExecContext(ctx, deleteDirtySlots, slotList(slots))
	return err
}

// Sums implements sqldb.Rows: the sum of the rows' hashes, which does not depend on their order.
func (Database) Sums(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot,
	into map[sqldb.Slot]string) error {
	type sum struct{ n, h uint64 }
	got := map[sqldb.Slot]sum{}
	var h xxhash.Digest
	rows, err := tx.QueryContext(ctx, fill(selectSlots, t), slotList(slots))
	err = sqldb.Each(rows, err, func() error {
		r, err := t.Scan(rows, nil)
		if err != nil {
			return err
		}
		h.Reset()
		for _, v := range r.Vals {
			hashValue(&h, v)
		}
		s := got[r.Slot]
		got[r.Slot] = sum{s.n + 1, s.h + h.Sum64()}
		return nil
	})
	for s, v := range got {
		into[s] += fmt.Sprintf("%s=%d:%x;", t.Name, v.n, v.h)
	}
	return err
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

// Clear implements sqldb.Rows.
func (Database) Clear(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, n int) (int64, error) {
	res, err := tx.ExecContext(ctx, fill(clearRows, t, "n", strconv.Itoa(n)), slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
