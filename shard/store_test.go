package shard_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testdb"
	"github.com/tierkit/tierkit/shard/shardtest"
)

func TestMapStores(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		s := shard.MemoryStore()
		shardtest.MapStore(t, func(*testing.T) shard.MapStore { return s })
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "map")
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(20000)")
			require.NoError(t, err)
			t.Cleanup(func() { _ = db.Close() })
			return shard.SQLStore(db, shard.SQLite())
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		k := testdb.Postgres(t)
		k.Open("map")
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			return shard.SQLStore(k.Reopen(t, "map"), shard.Postgres())
		})
	})
	t.Run("mariadb", func(t *testing.T) {
		t.Parallel()
		k := testdb.MariaDB(t)
		k.Open("map")
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			return shard.SQLStore(k.Reopen(t, "map"), shard.MariaDB())
		})
	})
}
