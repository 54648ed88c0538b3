package shard_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/shardtest"
)

func TestMapStores(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		s := shard.MemoryStore()
		shardtest.MapStore(t, func(*testing.T) shard.MapStore { return s })
	})
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "map")
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(20000)")
			require.NoError(t, err)
			t.Cleanup(func() { _ = db.Close() })
			return shard.SQLStore(db, shard.SQLite())
		})
	})
	t.Run("postgres", func(t *testing.T) {
		s := testserver.Postgres(t, testserver.PostgresOptions{})
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			db, err := sql.Open("pgx", fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable",
				s.Primary().Addr()))
			require.NoError(t, err)
			t.Cleanup(func() { _ = db.Close() })
			return shard.SQLStore(db, shard.Postgres())
		})
	})
	t.Run("mariadb", func(t *testing.T) {
		s := testserver.MariaDB(t, testserver.MySQLOptions{})
		shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
			db, err := sql.Open("mysql", s.Primary().AdminDSN())
			require.NoError(t, err)
			t.Cleanup(func() { _ = db.Close() })
			return shard.SQLStore(db, shard.MariaDB())
		})
	})
}
