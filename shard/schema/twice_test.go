package schema

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/ids"
	"github.com/tierkit/tierkit/shard/internal/testcluster"
	"github.com/tierkit/tierkit/shard/internal/testdb"
	"github.com/tierkit/tierkit/shard/readtable"
)

// Several processes start at the same moment, and each makes the tables that are not there.
func TestTablesMadeByTwoProcesses(t *testing.T) {
	k := testdb.Postgres(t)
	w := testcluster.New(t, k, 2, 64)
	ctx := t.Context()
	db := w.Shards[0].DB
	for name, create := range map[string]func() error{
		"tk_node": func() error {
			g, err := ids.Lease(ctx, db, shard.Postgres(), ids.LeaseOptions{})
			if err == nil {
				err = g.Close()
			}
			return err
		},
		"tk_migration": func() error {
			return Migrate(ctx, w.Cluster, []Migration{{ID: "m", SQL: []string{`create table m (id int)`}}})
		},
		"products": func() error {
			_, err := readtable.UpsertInto(ctx, db, shard.Postgres(), "products")
			return err
		},
	} {
		ddl := map[string]string{"tk_node": `(node integer primary key, holder text not null,
			until_ms bigint not null)`,
			"tk_migration": `(id text primary key, sum text not null, at text not null)`,
			"products": `(row_key text primary key, version bigint not null, deleted int not null,
				data bytea not null)`}
		tx, err := db.Begin() // the other process
		require.NoError(t, err)
		_, err = tx.Exec(`create table ` + name + ddl[name])
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- create() }()
		require.Eventually(t, func() bool {
			var waiting bool
			require.NoError(t, db.QueryRow(`select exists (select 1
				from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
					and query like 'create table%')`).Scan(&waiting))
			return waiting
		}, 30*time.Second, 5*time.Millisecond, name)
		require.NoError(t, tx.Commit())
		require.NoError(t, <-done, name)
	}
}
