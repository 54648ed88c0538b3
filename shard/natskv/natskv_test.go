package natskv_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/natskv"
	"github.com/tierkit/tierkit/shard/shardtest"
)

func connect(t *testing.T, s *testserver.NATSServer) *nats.Conn {
	nc, err := nats.Connect(s.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// server skips in short tests; the others run at the same time.
func server(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a server")
	}
	t.Parallel()
}

func TestMapStore(t *testing.T) {
	server(t)
	s := testserver.NATS(t)
	shardtest.MapStore(t, func(t *testing.T) shard.MapStore {
		st, err := natskv.Open(t.Context(), connect(t, s), natskv.Options{})
		require.NoError(t, err)
		require.Zero(t, st.Staleness())
		return st
	})
	_, err := natskv.Open(t.Context(), connect(t, s), natskv.Options{Replicas: 7})
	require.ErrorContains(t, err, "Options.Replicas")
	_, err = natskv.Open(t.Context(), connect(t, s), natskv.Options{Bucket: "no spaces"})
	require.ErrorContains(t, err, "Options.Bucket")
}

// Two processes share the map; the server dies and comes back in between, and the other process hears of a move at
// once.
func TestCluster(t *testing.T) {
	server(t)
	s := testserver.NATS(t)
	ctx := t.Context()
	dir := t.TempDir()
	var shards []shard.Shard
	for _, name := range []string{"a", "b"} {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, name)+
			"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)")
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		_, err = db.Exec(`create table t (id integer primary key, slot integer not null);
			create index t_slot on t (slot, id)`)
		require.NoError(t, err)
		shards = append(shards, shard.Shard{ID: shard.ID(name), DB: db})
	}
	open := func() *shard.Cluster {
		st, err := natskv.Open(ctx, connect(t, s), natskv.Options{})
		require.NoError(t, err)
		c, err := shard.New(ctx, st, shards, shard.Options{Dialect: shard.SQLite(),
			Tables: []shard.Table{{Name: "t", Key: []string{"id"}}}, Slots: 16, Refresh: 10 * time.Minute,
			MapTTL: 11 * time.Minute})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	one, two := open(), open()
	require.Equal(t, one.Map().Epoch(), two.Map().Epoch())
	require.NoError(t, s.Restart(ctx))
	var plan shard.Plan
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // clients reconnect
		var err error
		if plan, err = one.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"b": 1}}); err == nil {
			break
		}
		require.True(t, time.Now().Before(end), "%v", err)
	}
	before := two.Map().Epoch()
	job, err := one.Move(ctx, plan, shard.MoveOptions{})
	require.NoError(t, err)
	for end := time.Now().Add(30 * time.Second); two.Map().Epoch() == before; time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "the other process heard nothing, and would not for ten minutes")
	}
	require.NoError(t, job.Pause())
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	require.Error(t, job.Wait(wait))
	require.NoError(t, job.Abort(ctx))
}
