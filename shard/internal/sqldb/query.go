package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Each calls f for every row of a query that may have failed, and closes it.
func Each(rows *sql.Rows, err error, f func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// InTx runs f in a transaction.
func InTx(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// CreateTable makes a table unless it is there. Another process may make it at the same moment, which "if not exists"
// does not allow for.
func CreateTable(ctx context.Context, db *sql.DB, table string) error {
	_, err := db.ExecContext(ctx, `create table if not exists `+table)
	if err != nil {
		if _, again := db.ExecContext(ctx, `create table if not exists `+table); again == nil {
			return nil
		}
	}
	return err
}

// Fill replaces {names} in a statement; pairs are names and texts. The texts are names of tables and columns from
// Options and the catalog, never values.
func Fill(query string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "{" + pairs[i] + "}"
	}
	return strings.NewReplacer(pairs...).Replace(query)
}

// ReadColumns takes name and type of each column in their order.
func ReadColumns(t TableSpec, rows *sql.Rows, err error) (*Table, error) {
	info := &Table{TableSpec: t}
	err = Each(rows, err, func() error {
		var c Column
		err := rows.Scan(&c.Name, &c.Type)
		info.Cols = append(info.Cols, c)
		return err
	})
	if err == nil && len(info.Cols) == 0 {
		err = fmt.Errorf("%w: there is no table %s", ErrPreflight, t.Name)
	}
	return info, err
}

// ReadSums takes slot and checksum of the rows of a table.
func ReadSums(t *Table, into map[Slot]string, rows *sql.Rows, err error) error {
	return Each(rows, err, func() error {
		var s Slot
		var sum string
		err := rows.Scan(&s, &sum)
		into[s] += t.Name + "=" + sum + ";"
		return err
	})
}

// ReadPairs takes two texts of each row: its key and the columns of By.
func ReadPairs(rows *sql.Rows, err error) ([]string, []string, error) {
	var pks, by []string
	err = Each(rows, err, func() error {
		var pk, b string
		err := rows.Scan(&pk, &b)
		pks, by = append(pks, pk), append(by, b)
		return err
	})
	return pks, by, err
}

const selectDirty = `
select seq, tbl, slot, pk
from tk_dirty
where {in}
order by seq
limit {n}`

// ReadDirty is Notes.Dirty where tk_dirty has an index on seq.
func ReadDirty(ctx context.Context, tx *sql.Tx, d Text, slots []Slot, n int) (keys []DirtyKey, err error) {
	q := Fill(selectDirty, "in", d.InSlots("slot", 1), "n", strconv.Itoa(n))
	rows, err := tx.QueryContext(ctx, q, d.SlotList(slots))
	err = Each(rows, err, func() error {
		var k DirtyKey
		err := rows.Scan(&k.Seq, &k.Table, &k.Slot, &k.PK)
		keys = append(keys, k)
		return err
	})
	return keys, err
}

// DeleteDirty is Notes.Forget by seq.
func DeleteDirty(ctx context.Context, tx *sql.Tx, keys []DirtyKey) error {
	seqs := make([]string, len(keys))
	for i, k := range keys {
		seqs[i] = strconv.FormatInt(k.Seq, 10)
	}
	_, err := tx.ExecContext(ctx, `delete from tk_dirty where seq in (`+strings.Join(seqs, ",")+`)`)
	return err
}

const (
	selectPlace  = `select place from tk_job where job = ? and tbl = ?`
	deletePlace  = `delete from tk_job where job = ? and tbl = ?`
	insertPlace  = `insert into tk_job (job, tbl, place) values (?, ?, ?)`
	deletePlaces = `delete from tk_job where job like ?`
)

// SQLPlaces implements Places for all databases.
type SQLPlaces struct{ Bind func(string) string }

// Place implements Places.
func (p SQLPlaces) Place(ctx context.Context, tx *sql.Tx, job, table string) (place string, err error) {
	err = tx.QueryRowContext(ctx, p.Bind(selectPlace), job, table).Scan(&place)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return place, err
}

// SetPlace implements Places.
func (p SQLPlaces) SetPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error {
	_, err := tx.ExecContext(ctx, p.Bind(deletePlace), job, table)
	if err == nil {
		_, err = tx.ExecContext(ctx, p.Bind(insertPlace), job, table, place)
	}
	return err
}

// DropPlaces implements Places.
func (p SQLPlaces) DropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	_, err := tx.ExecContext(ctx, p.Bind(deletePlaces), job)
	return err
}

// JoinSlots joins slot numbers by commas.
func JoinSlots(slots []Slot) string {
	b := make([]byte, 0, 6*len(slots))
	for i, s := range slots {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(s), 10)
	}
	return string(b)
}

// JSONList makes an array of JSON values.
func JSONList(values []string) string { return "[" + strings.Join(values, ",") + "]" }

// JSONStrings makes an array of texts.
func JSONStrings(s []string) string {
	out := make([]string, len(s))
	for i, v := range s {
		b, _ := json.Marshal(v)
		out[i] = string(b)
	}
	return JSONList(out)
}

// JSONScalars reads an array of scalars: integers as int64, NULL as nil, all else as its text.
func JSONScalars(text string) ([]any, error) {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var vals []any
	if err := dec.Decode(&vals); err != nil {
		return nil, err
	}
	for i, v := range vals {
		switch v := v.(type) {
		case json.Number:
			if n, err := v.Int64(); err == nil {
				vals[i] = n
			} else {
				vals[i] = v.String()
			}
		case string, nil:
		default:
			vals[i] = fmt.Sprint(v)
		}
	}
	return vals, nil
}

// ObjectName is the unquoted name of a trigger, function or index that belongs to a table, at most 63 bytes.
func ObjectName(kind, table string) string {
	return fmt.Sprintf("tk_%s_%08x_%s", kind, uint32(xxhash.Sum64String(table)), table[:min(len(table), 32)])
}
