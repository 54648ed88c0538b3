package shard

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Migration is one step of a schema.
type Migration struct {
	// ID is its name for ever. Required.
	ID string
	// SQL are its statements.
	SQL []string
	// NoTx runs the statements without a transaction, as CREATE INDEX CONCURRENTLY wants it; they must be safe to
	// repeat. MariaDB has no transactions for DDL: there it is always so.
	NoTx bool
}

func (m Migration) sum() string {
	h := sha256.Sum256([]byte(strings.Join(m.SQL, "\x00")))
	return hex.EncodeToString(h[:8])
}

// Migrate runs those migrations that a shard has not had yet, on every shard that the cluster knows, in order, and
// notes them in the table tk_migration in the transaction of each. Call it again after a failure: it goes on where it
// stopped. It stops at the first shard that fails, whose error it returns. ErrMoving while a move is in progress;
// ErrMigration when one that ran had other statements.
func (c *Cluster) Migrate(ctx context.Context, migrations []Migration) error {
	seen := map[string]bool{}
	for i, m := range migrations {
		if m.ID == "" || seen[m.ID] {
			return fmt.Errorf("shard: migrations[%d].ID %q is empty or there twice", i, m.ID)
		}
		seen[m.ID] = true
	}
	if c.opts.Dialect == nil {
		return fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	if c.view.Load().st.Job != nil {
		return ErrMoving
	}
	for _, sh := range c.known() {
		for _, m := range migrations {
			if err := c.migrate(ctx, sh, m); err != nil {
				return fmt.Errorf("shard: migration %s on %s: %w", m.ID, sh.ID, err)
			}
		}
	}
	return nil
}

// known are all shards, those without slots included, by name.
func (c *Cluster) known() []*shardState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*shardState
	for _, id := range slices.Sorted(maps.Keys(c.shards)) {
		out = append(out, c.shards[id])
	}
	return out
}

// createMigrations makes the table in which a shard notes what it has run.
func createMigrations(ctx context.Context, db *sql.DB, d Dialect) error {
	return createTable(ctx, db, `tk_migration (id `+d.textKey()+` primary key, sum text not null, at text not null)`)
}

func (c *Cluster) migrate(ctx context.Context, sh *shardState, m Migration) error {
	d := c.opts.Dialect
	if err := createMigrations(ctx, sh.DB, d); err != nil {
		return err
	}
	tx, err := sh.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var sum string
	err = tx.QueryRowContext(ctx, d.bind(`select sum from tk_migration where id = ?`), m.ID).Scan(&sum)
	switch {
	case err == nil && sum != m.sum():
		return fmt.Errorf("%w: its statements were others when it ran", ErrMigration)
	case err == nil:
		return nil
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	if m.NoTx || !d.ddlInTx() {
		if err := tx.Rollback(); err != nil {
			return err
		}
		for _, q := range m.SQL {
			if _, err := sh.DB.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		_, err = sh.DB.ExecContext(ctx, d.bind(
			`insert into tk_migration (id, sum, at) values (?, ?, ?) on conflict (id) do nothing`), m.ID, m.sum(),
			time.Now().UTC().Format(time.RFC3339))
		return err
	}
	// First, so that of two processes one waits for the other, and then finds it done.
	res, err := tx.ExecContext(ctx, d.bind(`insert into tk_migration (id, sum, at) values (?, ?, ?) on conflict (id) do nothing`), m.ID, m.sum(), time.Now().UTC().Format(time.RFC3339))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	for _, q := range m.SQL {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Drift is a difference between shards that should be alike.
type Drift struct {
	// Table, or "" for a migration.
	Table string
	// Migration that some shards have not had.
	Migration string
	// Variants are the shards by what they have: a table's columns, or "done" and "missing".
	Variants map[string][]ID
}

func (d Drift) String() string {
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

// Drift compares the managed tables and the noted migrations of all shards. nil: they are alike.
func (c *Cluster) Drift(ctx context.Context) ([]Drift, error) {
	d := c.opts.Dialect
	if d == nil {
		return nil, fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	shards := c.known()
	tables := map[string]map[string][]ID{}
	done := map[string]map[ID]bool{}
	for _, sh := range shards {
		err := func() error {
			if err := createMigrations(ctx, sh.DB, d); err != nil {
				return err
			}
			tx, err := sh.DB.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			for _, t := range c.opts.Tables {
				have := "missing"
				if info, err := d.columns(ctx, tx, t); err == nil {
					slices.SortFunc(info.cols, func(a, b column) int { return strings.Compare(a.name, b.name) })
					have = info.fingerprint()
				} else if !errors.Is(err, ErrPreflight) {
					return err
				}
				if tables[t.Name] == nil {
					tables[t.Name] = map[string][]ID{}
				}
				tables[t.Name][have] = append(tables[t.Name][have], sh.ID)
			}
			rows, err := tx.QueryContext(ctx, `select id, sum from tk_migration`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id, sum string
				if err := rows.Scan(&id, &sum); err != nil {
					return err
				}
				if done[id] == nil {
					done[id] = map[ID]bool{}
				}
				done[id][sh.ID] = true
			}
			return rows.Err()
		}()
		if err != nil {
			return nil, fmt.Errorf("shard: drift of %s: %w", sh.ID, err)
		}
	}
	var out []Drift
	for _, t := range c.opts.Tables {
		if len(tables[t.Name]) > 1 {
			out = append(out, Drift{Table: t.Name, Variants: tables[t.Name]})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(done)) {
		if len(done[id]) < len(shards) {
			v := map[string][]ID{}
			for _, sh := range shards {
				what := "missing"
				if done[id][sh.ID] {
					what = "done"
				}
				v[what] = append(v[what], sh.ID)
			}
			out = append(out, Drift{Migration: id, Variants: v})
		}
	}
	return out, nil
}
