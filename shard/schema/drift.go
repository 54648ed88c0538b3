package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// Difference is something that should be alike on all shards and is not.
type Difference struct {
	// Table, or "" for a migration.
	Table string
	// Migration that some shards have not had.
	Migration string
	// Variants are the shards by what they have: a table's columns, or "done" and "missing".
	Variants map[string][]shard.ID
}

func (d Difference) String() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace("table " + d.Table))
	if d.Migration != "" {
		b.Reset()
		b.WriteString("migration " + d.Migration)
	}
	for _, what := range slices.Sorted(maps.Keys(d.Variants)) {
		fmt.Fprintf(&b, "; %v: %s", d.Variants[what], what)
	}
	return b.String()
}

// found is what was read from the shards.
type found struct {
	tables map[string]map[string][]shard.ID // by table and its columns
	done   map[string]map[shard.ID]bool     // by migration
}

// Drift compares the managed tables and the noted migrations of all shards. nil: they are alike.
func Drift(ctx context.Context, c *shard.Cluster) ([]Difference, error) {
	d, err := database(c)
	if err != nil {
		return nil, err
	}
	f := found{tables: map[string]map[string][]shard.ID{}, done: map[string]map[shard.ID]bool{}}
	for _, sh := range c.Shards() {
		if err := f.read(ctx, d, sh, c.Tables()); err != nil {
			return nil, fmt.Errorf("schema: drift of %s: %w", sh.ID, err)
		}
	}
	return f.differences(c), nil
}

func (f *found) read(ctx context.Context, d sqldb.Database, sh shard.Shard, tables []shard.Table) error {
	if err := createMigrations(ctx, sh.DB, d); err != nil {
		return err
	}
	tx, err := sh.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, t := range tables {
		have, err := columnsOf(ctx, tx, d, t)
		if err != nil {
			return err
		}
		if f.tables[t.Name] == nil {
			f.tables[t.Name] = map[string][]shard.ID{}
		}
		f.tables[t.Name][have] = append(f.tables[t.Name][have], sh.ID)
	}
	rows, err := tx.QueryContext(ctx, selectDone)
	return sqldb.Each(rows, err, func() error {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if f.done[id] == nil {
			f.done[id] = map[shard.ID]bool{}
		}
		f.done[id][sh.ID] = true
		return nil
	})
}

// columnsOf describes a table in words that are the same for the same columns in any order.
func columnsOf(ctx context.Context, tx *sql.Tx, d sqldb.Database, t shard.Table) (string, error) {
	info, err := d.Columns(ctx, tx, spec(t))
	if errors.Is(err, shard.ErrPreflight) {
		return "missing", nil
	}
	if err != nil {
		return "", err
	}
	slices.SortFunc(info.Cols, func(a, b sqldb.Column) int { return strings.Compare(a.Name, b.Name) })
	return info.Fingerprint(), nil
}

func (f *found) differences(c *shard.Cluster) (out []Difference) {
	for _, t := range c.Tables() {
		if len(f.tables[t.Name]) > 1 {
			out = append(out, Difference{Table: t.Name, Variants: f.tables[t.Name]})
		}
	}
	shards := c.Shards()
	for _, id := range slices.Sorted(maps.Keys(f.done)) {
		if len(f.done[id]) == len(shards) {
			continue
		}
		v := map[string][]shard.ID{}
		for _, sh := range shards {
			what := "missing"
			if f.done[id][sh.ID] {
				what = "done"
			}
			v[what] = append(v[what], sh.ID)
		}
		out = append(out, Difference{Migration: id, Variants: v})
	}
	return out
}
