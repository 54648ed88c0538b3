package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	selectChunk = `
select to_jsonb(t)::text, {slot}, jsonb_build_array({keys})::text, jsonb_build_array({slot}, {keys})::text
from {table} t
where {slot} = any($1::text::int[])
{behind}
order by {slot}, {keys}
limit {n}`

	selectCurrent = `
select to_jsonb(t)::text, {slot}, k.v::text
from jsonb_array_elements($1::text::jsonb) k(v)
join {table} t on {key}`

	selectAll = `
select to_jsonb(t)::text, jsonb_build_array({keys})::text
from {table} t`

	upsertRows = `
insert into {table} ({cols})
overriding system value
select {cols}
from jsonb_populate_recordset(null::{table}, $1::text::jsonb)
{conflict}`

	deleteRows = `
delete from {table} t
using jsonb_array_elements($1::text::jsonb) k(v)
where {key}`

	selectSums = `
select {slot}, count(*) || ':' || sum(('x' || substr(md5(to_jsonb(t)::text), 1, 15))::bit(60)::bigint)::text
from {table} t
where {slot} = any($1::text::int[])
group by 1`

	clearRows = `
delete from {table}
where ctid = any(array(
  select ctid
  from {table}
  where {slot} = any($1::text::int[])
  limit {n}
))`
)

// ofT qualifies a column with the alias t.
func ofT(column string) string { return "t." + column }

// keyIs compares a table's key with the JSON array in the expression value.
func keyIs(t *sqldb.Table, value string) string {
	out := make([]string, len(t.Keys))
	for i, k := range t.Keys {
		out[i] = fmt.Sprintf("t.%s = (%s ->> %d)::%s", sqldb.Quote(k.Name), value, i, k.Type)
	}
	return strings.Join(out, " and ")
}

// Chunk implements sqldb.Rows.
func (Database) Chunk(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, after string,
	n int) (out []sqldb.Row, next string, err error) {
	slot, keys := ofT(sqldb.Quote(t.SlotColumn)), sqldb.Names(t.Keys, ofT)
	args, behind := []any{slotList(slots)}, ""
	if after != "" {
		want := []string{"($2::text::jsonb ->> 0)::int"}
		for i, k := range t.Keys {
			want = append(want, fmt.Sprintf("($2::text::jsonb ->> %d)::%s", i+1, k.Type))
		}
		behind = `and (` + slot + `, ` + keys + `) > (` + strings.Join(want, ", ") + `)`
		args = append(args, after)
	}
	q := sqldb.Fill(selectChunk, "table", t.Name, "slot", slot, "keys", keys, "behind", behind, "n", strconv.Itoa(n))
	rows, err := tx.QueryContext(ctx, q, args...)
	err = sqldb.Each(rows, err, func() error {
		var r sqldb.Row
		err := rows.Scan(&r.JSON, &r.Slot, &r.PK, &next)
		out = append(out, r)
		return err
	})
	return out, next, err
}

// Current implements sqldb.Rows.
func (Database) Current(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) (out []sqldb.Row, err error) {
	q := sqldb.Fill(selectCurrent, "table", t.Name, "slot", ofT(sqldb.Quote(t.SlotColumn)), "key", keyIs(t, "k.v"))
	rows, err := tx.QueryContext(ctx, q, sqldb.JSONList(pks))
	err = sqldb.Each(rows, err, func() error {
		var r sqldb.Row
		err := rows.Scan(&r.JSON, &r.Slot, &r.PK)
		out = append(out, r)
		return err
	})
	return out, err
}

// All implements sqldb.Database.
func (Database) All(ctx context.Context, tx *sql.Tx, t *sqldb.Table) (out []sqldb.Row, err error) {
	q := sqldb.Fill(selectAll, "table", t.Name, "keys", sqldb.Names(t.Keys, ofT))
	rows, err := tx.QueryContext(ctx, q)
	err = sqldb.Each(rows, err, func() error {
		var r sqldb.Row
		err := rows.Scan(&r.JSON, &r.PK)
		out = append(out, r)
		return err
	})
	return out, err
}

// Upsert implements sqldb.Rows.
func (Database) Upsert(ctx context.Context, tx *sql.Tx, t *sqldb.Table, rows []sqldb.Row) error {
	if len(rows) == 0 {
		return nil
	}
	recs := make([]string, len(rows))
	for i, r := range rows {
		recs[i] = r.JSON
	}
	q := sqldb.Fill(upsertRows, "table", t.Name, "cols", sqldb.Names(t.Cols, sqldb.Ident), "conflict",
		t.OnConflictUpdate())
	_, err := tx.ExecContext(ctx, q, sqldb.JSONList(recs))
	return err
}

// Remove implements sqldb.Rows.
func (Database) Remove(ctx context.Context, tx *sql.Tx, t *sqldb.Table, pks []string) error {
	if len(pks) == 0 {
		return nil
	}
	q := sqldb.Fill(deleteRows, "table", t.Name, "key", keyIs(t, "k.v"))
	_, err := tx.ExecContext(ctx, q, sqldb.JSONList(pks))
	return err
}

// Sums implements sqldb.Rows.
func (Database) Sums(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot,
	into map[sqldb.Slot]string) error {
	q := sqldb.Fill(selectSums, "table", t.Name, "slot", ofT(sqldb.Quote(t.SlotColumn)))
	rows, err := tx.QueryContext(ctx, q, slotList(slots))
	return sqldb.ReadSums(t, into, rows, err)
}

// Clear implements sqldb.Rows.
func (Database) Clear(ctx context.Context, tx *sql.Tx, t *sqldb.Table, slots []sqldb.Slot, n int) (int64, error) {
	q := sqldb.Fill(clearRows, "table", t.Name, "slot", sqldb.Quote(t.SlotColumn), "n", strconv.Itoa(n))
	res, err := tx.ExecContext(ctx, q, slotList(slots))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
