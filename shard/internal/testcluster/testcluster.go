// Package testcluster makes clusters for the tests of the parts of package shard.
package testcluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// MapTTL of the clusters, so that moves do not take long.
const MapTTL = 100 * time.Millisecond

// Tables are those of testdb.Kind.DDL.
var Tables = []shard.Table{
	{Name: "t", Key: []string{"id"}},
	{Name: "u", Key: []string{"a", "b"}, By: []string{"b"}},
}

// Dialect of the kind.
func Dialect(k *testdb.Kind) shard.Dialect {
	switch k.Name() {
	case "postgres":
		return shard.Postgres()
	case "mariadb":
		return shard.MariaDB()
	}
	return shard.SQLite()
}

// Cluster is a cluster with the shards s0, s1, ..., of which the last one has no slots yet.
type Cluster struct {
	*shard.Cluster
	Shards []shard.Shard
	store  shard.MapStore
	opts   shard.Options
}

// New makes a cluster of so many shards with slots, and one without.
func New(t testing.TB, k *testdb.Kind, shards, slots int) *Cluster {
	c := &Cluster{store: shard.MemoryStore(), opts: shard.Options{Dialect: Dialect(k), Tables: Tables, Slots: slots,
		Refresh: -1, MapTTL: MapTTL, Retry: 20 * time.Second}}
	for i := range shards + 1 {
		id := fmt.Sprint("s", i)
		c.Shards = append(c.Shards, shard.Shard{ID: shard.ID(id), DB: k.OpenWithTables(t, id)})
	}
	c.Cluster = c.open(t, c.Shards[:shards])
	require.NoError(t, c.AddShard(c.Shards[shards]))
	return c
}

// Process opens the cluster as another process would.
func (c *Cluster) Process(t testing.TB) *shard.Cluster { return c.open(t, c.Shards) }

func (c *Cluster) open(t testing.TB, shards []shard.Shard) *shard.Cluster {
	s, err := shard.New(context.Background(), c.store, shards, c.opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Fill writes rows with even ids up to n into t and u.
func (c *Cluster) Fill(t testing.TB, k *testdb.Kind, n int) {
	ctx := context.Background()
	for id := 0; id < n; id += 2 {
		require.NoError(t, c.Tx(ctx, shard.Int(int64(id)), nil, func(tx *shard.Tx) error {
			_, err := tx.Exec(k.Bind(`insert into t (id, slot, v) values (?, ?, 1)`), id, int(tx.Slot()))
			if err == nil {
				_, err = tx.Exec(k.Bind(`insert into u (a, b, slot, x) values (?, ?, ?, ?)`), fmt.Sprint("k", id), id,
					int(tx.Slot()), []byte{0, 1, 255})
			}
			return err
		}))
	}
}
