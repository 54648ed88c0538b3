package schema

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
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

// ErrMigration is returned when a migration was changed after it had run.
var ErrMigration = errors.New("schema: migrations do not agree")

const (
	migrationTable  = `tk_migration (id {key} primary key, sum text not null, at text not null)`
	selectSum       = `select sum from tk_migration where id = ?`
	insertMigration = `insert into tk_migration (id, sum, at) values (?, ?, ?) on conflict (id) do nothing`
	selectDone      = `select id from tk_migration`
)

// Migrate runs those migrations that a shard has not had yet, on every shard that the cluster knows, in order, and
// notes them in the table tk_migration in the transaction of each. Call it again after a failure: it goes on where it
// stopped. It stops at the first shard that fails, whose error it returns. shard.ErrMoving while a move is in progress;
// ErrMigration when one that ran had other statements.
func Migrate(ctx context.Context, c *shard.Cluster, migrations []Migration) error {
	seen := map[string]bool{}
	for i, m := range migrations {
		if m.ID == "" || seen[m.ID] {
			return fmt.Errorf("schema: migrations[%d].ID %q is empty or there twice", i, m.ID)
		}
		seen[m.ID] = true
	}
	d, err := database(c)
	if err != nil {
		return err
	}
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	if c.Map().Moving() {
		return shard.ErrMoving
	}
	for _, sh := range c.Shards() {
		if err := createMigrations(ctx, sh.DB, d); err != nil {
			return fmt.Errorf("schema: %s: %w", sh.ID, err)
		}
		for _, m := range migrations {
			if err := migrate(ctx, sh.DB, d, m); err != nil {
				return fmt.Errorf("schema: migration %s on %s: %w", m.ID, sh.ID, err)
			}
		}
	}
	return nil
}

// createMigrations makes the table in which a shard notes what it has run.
func createMigrations(ctx context.Context, db *sql.DB, d sqldb.Database) error {
	return sqldb.CreateTable(ctx, db, sqldb.Fill(migrationTable, "key", d.TextKey()))
}

// note notes a migration, and reports whether it had not been noted.
func (m Migration) note(ctx context.Context, d sqldb.Database, on execer) (bool, error) {
	at := time.Now().UTC().Format(time.RFC3339)
	res, err := on.ExecContext(ctx, d.Bind(insertMigration), m.ID, m.sum(), at)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (m Migration) run(ctx context.Context, on execer) error {
	for _, q := range m.SQL {
		if _, err := on.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, d sqldb.Database, m Migration) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var sum string
	err = tx.QueryRowContext(ctx, d.Bind(selectSum), m.ID).Scan(&sum)
	switch {
	case err == nil && sum != m.sum():
		return fmt.Errorf("%w: its statements were others when it ran", ErrMigration)
	case err == nil:
		return nil
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	if m.NoTx || !d.DDLInTx() {
		if err := tx.Rollback(); err != nil {
			return err
		}
		if err := m.run(ctx, db); err != nil {
			return err
		}
		_, err = m.note(ctx, d, db)
		return err
	}
	// The note comes first, so that of two processes one waits for the other, and then finds it done.
	if fresh, err := m.note(ctx, d, tx); err != nil || !fresh {
		return err
	}
	if err := m.run(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}
