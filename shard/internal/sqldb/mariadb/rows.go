package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// {stored} are the columns as they are written again: all but text and floating-point numbers as bytes, so that no
// driver converts anything.
const (
	selectChunk = `
select {stored}, {slot}, json_array({keys}), json_array({slot}, {keys})
from {table}
where {slot} in ({slots})
{behind}
order by {slot}, {keys}
limit {n}`

	selectCurrent = `
select {stored}, {slot}, json_array({keys})
from {table}
where ({keys}) in ({values})`

	selectAll = `
select {stored}, 0, json_array({keys})
from {table}`

	upsertRows = `
insert into {table} ({cols})
values {values}
on duplicate key update {set}`

	deleteRows = `
delete from {table}
where ({keys}) in ({values})`

	selectSums = `
select {slot}, concat(count(*), ':', sum(cast(conv(substr(md5(json_array({hex})), 1, 15), 16, 10) as unsigned)))
from {table}
where {slot} in ({slots})
group by 1`

	clearRows = `
delete from {table}
where {slot} in ({slots})
limit {n}`

	deleteDirtySlots = `delete from tk_dirty where slot in ({slots})`
)

// isText reports columns that have a character set, and are converted to the connection's and back.
func isText(c sqldb.Column) bool {
	for _, p := range []string{"char", "varchar", "text", "tinytext", "mediumtext", "longtext", "enum", "set", "json"} {
		if strings.HasPrefix(c.Type, p) {
			return true
		}
	}
	return false
}

func storedCols(t *sqldb.Table) string {
	out := make([]string, len(t.Cols))
	for i, c := range t.Cols {
		if out[i] = quote(c.Name); !isText(c) && !strings.HasPrefix(c.Type, "float") &&
			!strings.HasPrefix(c.Type, "double") {
			out[i] = `cast(` + out[i] + ` as binary)`
		}
	}
	return strings.Join(out, ", ")
}

// fill writes a statement about rows of a table.
func fill(query string, t *sqldb.Table, more ...string) string {
	return sqldb.Fill(query, append([]string{
		"table", t.Name,
		"slot", quote(t.SlotColumn),
		"keys", names(t.Keys, ""),
		"stored", storedCols(t),
	}, more...)...)
}

// query reads rows; with next each has its place behind it.
func query(ctx context.Context, tx *sql.Tx, t *sqldb.Table, next *string, q string,
	args ...any) (out []sqldb.Row, err error) {
	rows, err := tx.QueryContext(ctx, q, args...)
	err = sqldb.Each(rows, err, func() error {
		r, err := t.Scan(rows, next)
		for i, c := range t.Cols {
			if b, ok := r.Vals[i].([]byte); ok && isText(c) {
				r.Vals[i] = string(b) // bytes would be sent as binary
			}
		}
		out = append(out, r)
		return err
	})
	return out, err
}

// marks are n placeholders, lists m lists of n placeholders.
func marks(n int) string    { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }
func lists(m, n int) string { return strings.TrimSuffix(strings.Repeat("("+marks(n)+"), ", m), ", ") }

// keyValues are the elements of a JSON array of key values.
func keyValues(text string) ([]any, error) {
	vals, err := sqldb.JSONScalars(text)
	if err != nil {
		return nil, fmt.Errorf("shard: key %s: %w", strconv.Quote(text), err)
	}
	return vals, nil
}

// eachHundred calls f for at most 100 keys at a time, with placeholders for their values.
func eachHundred(t *sqldb.Table, pks []string, f func(values string, args []any) error) error {
	for len(pks) > 0 {
		part := pks[:min(100, len(pks))]
		pks = pks[len(part):]
		var args []any
		for _, pk := range part {
			vals, err := keyValues(pk)
			if err != nil {
				return err
			}
			args = append(args, vals...)
		}
		if err := f(lists(len(part), len(t.Keys)), args); err != nil {
			return err
		}
	}
	return nil
}

// Chunk implements sqldb.Rows.
func (Database) Chunk(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, after string,
	n int) (out []sqldb.Row, next string, err error) {
	var args []any
	behind := ""
	if after != "" {
		if args, err = keyValues(after); err != nil {
			return nil, "", err
		}
		behind = fill(`and ({slot}, {keys}) > ({marks})`, t, "marks", marks(len(args)))
	}
	q := fill(selectChunk, t, "slots", sqldb.JoinSlots(slots), "behind", behind, "n", strconv.Itoa(n))
	out, err = query(ctx, tx, t, &next, q, args...)
	return out, next, err
}

// Current implements sqldb.Rows.
func (Database) Current(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) (out []sqldb.Row, err error) {
	err = eachHundred(t, pks, func(values string, args []any) error {
		rows, err := query(ctx, tx, t, nil, fill(selectCurrent, t, "values", values), args...)
		out = append(out, rows...)
		return err
	})
	return out, err
}

// All implements sqldb.Database.
func (Database) All(ctx context.Context, tx *sql.Tx, t *sqldb.Table) ([]sqldb.Row, error) {
	return query(ctx, tx, t, nil, fill(selectAll, t))
}

// Upsert implements sqldb.Rows.
func (Database) Upsert(ctx context.Context, tx *sql.Tx, t *sqldb.Table, rows []sqldb.Row) error {
	vals := t.Values()
	if len(vals) == 0 {
		vals = t.Keys
	}
	set := make([]string, len(vals))
	for i, c := range vals {
		set[i] = quote(c.Name) + ` = values(` + quote(c.Name) + `)`
	}
	for len(rows) > 0 {
		part := rows[:min(100, len(rows))]
		rows = rows[len(part):]
		var args []any
		for _, r := range part {
			args = append(args, r.Vals...)
		}
		q := fill(upsertRows, t, "cols", names(t.Cols, ""), "values", lists(len(part), len(t.Cols)), "set",
			strings.Join(set, ", "))
		if _, err := tx.ExecContext(ctx, q, args...); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements sqldb.Rows.
func (Database) Remove(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) error {
	return eachHundred(t, pks, func(values string, args []any) error {
		_, err := tx.ExecContext(ctx, fill(deleteRows, t, "values", values), args...)
		return err
	})
}

// Dirty implements sqldb.Notes.
func (d Database) Dirty(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, n int) ([]sqldb.DirtyKey, error) {
	return sqldb.ReadDirty(ctx, tx, d, slots, n)
}

// Forget implements sqldb.Notes.
func (Database) Forget(ctx context.Context, tx *sql.Tx, keys []sqldb.DirtyKey) error {
	return sqldb.DeleteDirty(ctx, tx, keys)
}

// ForgetSlots implements sqldb.Notes.
func (Database) ForgetSlots(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	_, err := tx.ExecContext(ctx, sqldb.Fill(deleteDirtySlots, "slots", sqldb.JoinSlots(slots)))
	return err
}

// Sums implements sqldb.Rows.
func (Database) Sums(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot,
	into map[sqldb.Slot]string) error {
	hex := make([]string, len(t.Cols))
	for i, c := range t.Cols {
		if hex[i] = `hex(cast(` + quote(c.Name) + ` as binary))`; isText(c) {
			hex[i] = `hex(convert(` + quote(c.Name) + ` using utf8mb4))`
		}
	}
	rows, err := tx.QueryContext(ctx, fill(selectSums, t, "slots", sqldb.JoinSlots(slots), "hex",
		strings.Join(hex, ", ")))
	return sqldb.ReadSums(t, into, rows, err)
}

// Clear implements sqldb.Rows.
func (Database) Clear(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, n int) (int64, error) {
	res, err := tx.ExecContext(ctx, fill(clearRows, t, "slots", sqldb.JoinSlots(slots), "n", strconv.Itoa(n)))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
