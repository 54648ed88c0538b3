package sqldb

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

// TableSpec names a table, its key and how it is sharded. By and SlotColumn are set.
type TableSpec struct {
	Name       string
	Key        []string
	By         []string
	SlotColumn string
}

// Table is a table as the database describes it.
type Table struct {
	TableSpec
	Cols []Column
	Keys []Column // the columns of Key
	Bys  []Column // the columns of By
}

// Column has a type as the database writes it.
type Column struct{ Name, Type string }

// Fingerprint changes with the schema as far as rows depend on it.
func (t *Table) Fingerprint() string {
	var b strings.Builder
	for _, c := range t.Cols {
		fmt.Fprintf(&b, "%s %s;", c.Name, c.Type)
	}
	return b.String()
}

// SameSchema reports whether both tables have the same columns, in any order.
func (t *Table) SameSchema(o *Table) bool {
	if len(t.Cols) != len(o.Cols) {
		return false
	}
	have := map[Column]bool{}
	for _, c := range t.Cols {
		have[c] = true
	}
	for _, c := range o.Cols {
		if !have[c] {
			return false
		}
	}
	return true
}

// Values are the columns that are not keys.
func (t *Table) Values() (out []Column) {
	for _, c := range t.Cols {
		if !slices.ContainsFunc(t.Keys, func(k Column) bool { return k.Name == c.Name }) {
			out = append(out, c)
		}
	}
	return out
}

// HasSlot reports whether the table has its slot column.
func (t *Table) HasSlot() bool {
	return slices.ContainsFunc(t.Cols, func(c Column) bool { return strings.EqualFold(c.Name, t.SlotColumn) })
}

// FindKeys sets Keys and Bys. It refuses a table without a slot column.
func (t *Table) FindKeys() error {
	if !t.HasSlot() {
		return fmt.Errorf("%w: table %s has no column %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return t.FindColumns()
}

// FindColumns sets Keys and Bys, in the order of Key and By.
func (t *Table) FindColumns() error {
	find := func(want []string) (out []Column, err error) {
		for _, k := range want {
			i := slices.IndexFunc(t.Cols, func(c Column) bool { return strings.EqualFold(c.Name, k) })
			if i < 0 {
				return nil, fmt.Errorf("%w: table %s has no column %s", ErrPreflight, t.Name, k)
			}
			out = append(out, t.Cols[i])
		}
		return out, nil
	}
	var err error
	if t.Keys, err = find(t.Key); err != nil {
		return err
	}
	t.Bys, err = find(t.By)
	return err
}

// Quote quotes a name as the SQL standard has it.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Literal quotes a text.
func Literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Ident returns its argument, for Names.
func Ident(s string) string { return s }

// Names joins the quoted names of columns by commas; each makes an expression of one.
func Names(cols []Column, each func(string) string) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = each(Quote(c.Name))
	}
	return strings.Join(out, ", ")
}

// OnConflictUpdate is the end of an INSERT that replaces the values of a row with the same key.
func (t *Table) OnConflictUpdate() string {
	vals := t.Values()
	if len(vals) == 0 {
		return " on conflict (" + Names(t.Keys, Ident) + ") do nothing"
	}
	return " on conflict (" + Names(t.Keys, Ident) + ") do update set " + Names(vals, func(c string) string {
		return c + " = excluded." + c
	})
}

// Scan reads the values of all columns, then slot and key, and the place into next unless it is nil.
func (t *Table) Scan(rows *sql.Rows, next *string) (r Row, err error) {
	r.Vals = make([]any, len(t.Cols))
	dst := make([]any, 0, len(t.Cols)+3)
	for i := range r.Vals {
		dst = append(dst, &r.Vals[i])
	}
	dst = append(dst, &r.Slot, &r.PK)
	if next != nil {
		dst = append(dst, next)
	}
	return r, rows.Scan(dst...)
}
