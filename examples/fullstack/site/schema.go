package site

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/shard"
)

// Tables are all tables that move with their slots. Rows that are written together share a key, so every write of the
// site is one transaction on one shard.
var Tables = []shard.Table{
	{Name: "pages", Key: []string{"path"}},
	{Name: "comments", Key: []string{"id"}},
	{Name: "likes", Key: []string{"page", "user"}},
	{Name: "events", Key: []string{"id"}},
	{Name: "users", Key: []string{"name"}},
	{Name: "posts", Key: []string{"id"}},
	{Name: "photos", Key: []string{"id"}},
	{Name: "writes", Key: []string{"id"}},
}

var schema = []string{
	// A page that readers view: a chapter, or one of a replayed log. Views, likes and comments are counted here.
	`CREATE TABLE IF NOT EXISTS pages (
		slot INTEGER NOT NULL, path TEXT PRIMARY KEY, size INTEGER NOT NULL,
		likes INTEGER NOT NULL, views INTEGER NOT NULL, comments INTEGER NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS pages_slot ON pages (slot, path)`,
	`CREATE TABLE IF NOT EXISTS comments (
		slot INTEGER NOT NULL, id TEXT PRIMARY KEY, page TEXT NOT NULL,
		author TEXT NOT NULL, text TEXT NOT NULL, created INTEGER NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS comments_slot ON comments (slot, id)`,
	`CREATE INDEX IF NOT EXISTS comments_page ON comments (page, created)`,
	`CREATE INDEX IF NOT EXISTS comments_author ON comments (author, created)`,
	`CREATE TABLE IF NOT EXISTS likes (
		slot INTEGER NOT NULL, page TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (page, user))`,
	`CREATE INDEX IF NOT EXISTS likes_slot ON likes (slot, page, user)`,
	// The views that were counted: delivery is at least once, counting exactly once.
	`CREATE TABLE IF NOT EXISTS events (slot INTEGER NOT NULL, id TEXT PRIMARY KEY) WITHOUT ROWID`,
	`CREATE INDEX IF NOT EXISTS events_slot ON events (slot, id)`,
	`CREATE TABLE IF NOT EXISTS users (
		slot INTEGER NOT NULL, name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS users_slot ON users (slot, name)`,
	`CREATE TABLE IF NOT EXISTS posts (
		slot INTEGER NOT NULL, id TEXT PRIMARY KEY, author TEXT NOT NULL,
		text TEXT NOT NULL, deleted INTEGER NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS posts_slot ON posts (slot, id)`,
	`CREATE TABLE IF NOT EXISTS photos (
		slot INTEGER NOT NULL, id TEXT PRIMARY KEY, owner TEXT NOT NULL,
		original BLOB NOT NULL, thumb BLOB, created INTEGER NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS photos_slot ON photos (slot, id)`,
	`CREATE INDEX IF NOT EXISTS photos_created ON photos (created)`,
	// One row per acknowledged write, under the key that the client chose: repeating an unknown outcome does nothing
	// twice.
	`CREATE TABLE IF NOT EXISTS writes (slot INTEGER NOT NULL, id TEXT PRIMARY KEY, kind TEXT NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS writes_slot ON writes (slot, id)`,
}

// Migrate makes the tables on every shard.
func Migrate(ctx context.Context, c *shard.Cluster) error {
	return c.Each(ctx, func(ctx context.Context, id shard.ID, db *sql.DB) error {
		for _, stmt := range schema {
			if _, err := db.ExecContext(ctx, stmt); err != nil {
				return fmt.Errorf("site: schema of shard %s: %w", id, err)
			}
		}
		return nil
	})
}

// Seed stores the pages: those of the guide and of a catalog. Those that are there already stay as they are.
func Seed(ctx context.Context, c *shard.Cluster, catalog accesslog.Catalog) error {
	sizes := map[string]int64{}
	for p, o := range catalog {
		if o.Kind == accesslog.Page {
			sizes[p] = o.Size
		}
	}
	guide, err := chapters()
	if err != nil {
		return err
	}
	for _, ch := range guide {
		sizes[ch.Path] = int64(len(ch.Body))
	}
	paths := slices.Sorted(maps.Keys(sizes))
	keys := make([]shard.Key, len(paths))
	for i, p := range paths {
		keys[i] = shard.String(p)
	}
	return c.DoMany(ctx, keys, func(ctx context.Context, db *sql.DB, idx []int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, i := range idx {
			_, err := tx.ExecContext(ctx, `
				INSERT INTO pages (slot, path, size, likes, views, comments) VALUES (?, ?, ?, 0, 0, 0)
				ON CONFLICT (path) DO NOTHING`, int(c.Slot(keys[i])), paths[i], sizes[paths[i]])
			if err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// seedOf makes content that depends on a name alone, so that every server generates the same bytes.
func seedOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
