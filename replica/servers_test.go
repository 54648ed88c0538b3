package replica_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

func pgNodes(t testing.TB, s *testserver.PostgresCluster) []replica.Node {
	t.Helper()
	var nodes []replica.Node
	for _, n := range s.Nodes {
		cfg, err := pgx.ParseConfig(n.DSN())
		require.NoError(t, err)
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: stdlib.GetConnector(*cfg), ConnInfo: n.ConnInfo()})
	}
	return nodes
}

func open(t testing.TB, d replica.Dialect, nodes []replica.Node, o replica.Options) *replica.Cluster {
	t.Helper()
	c, err := replica.New(d, nodes, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.WaitReady(ctx))
	waitFor(t, "all nodes are up", func() bool {
		for _, n := range c.Status().Nodes {
			if n.State != "up" {
				return false
			}
		}
		return true
	})
	return c
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

func mustExec(t testing.TB, db *sql.DB, q string, args ...any) {
	t.Helper()
	_, err := db.Exec(q, args...)
	require.NoError(t, err, q)
}

// replicated waits until all nodes have the table t.
func replicated(t testing.TB, s *testserver.PostgresCluster) {
	t.Helper()
	waitFor(t, "all nodes have the table", func() bool {
		for _, n := range s.Nodes {
			if n.DB().QueryRow("select count(*) from t").Scan(new(int)) != nil {
				return false
			}
		}
		return true
	})
}

// Every statement here was sent to the wrong node by one of the libraries in use; each must end up where it works.
func TestPostgresRouting(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2})
	mustExec(t, s.Primary().DB(), `create table t (id serial primary key, v int); create sequence s; insert into t (v) select generate_series(1, 10);
create function writer() returns int language sql volatile as 'insert into t (v) values (1) returning id';
create function stable_looking() returns bigint language plpgsql stable as $$ begin return nextval('s'); end $$;
create view seq_view as select nextval('s') as n`)
	nodes := pgNodes(t, s)
	waitFor(t, "the standbys have the table", func() bool {
		for _, n := range s.Nodes {
			if n.DB().QueryRow("select n from (select 1 from pg_views where viewname = 'seq_view') x(n)").Scan(
				new(int)) != nil {
				return false
			}
		}
		return true
	})
	c := open(t, replica.Postgres(), nodes, replica.Options{})
	onReplica := func(q string, args ...any) bool {
		before := c.Stats().ReadsReplica
		rows, err := c.DB().Query(q, args...)
		require.NoError(t, err, q)
		for rows.Next() {
		}
		require.NoError(t, rows.Err(), q)
		require.NoError(t, rows.Close())
		return c.Stats().ReadsReplica > before
	}
	for _, q := range []string{"select * from t", "-- name: List :many\nselect id from t where v > 3", "values (1)",
		"table t", "with x as (select 1) select * from x",
		"select 'returning'", `select v as "update" from t`} {
		require.True(t, onReplica(q), q)
	}
	for _, q := range []string{"insert into t (v) values (1) returning id",
		"with x as (insert into t (v) values (1) returning id) select * from x",
		"select * from t for update", "select * from t for no key update;", "select * from t for update skip locked",
		"select nextval('s')",
		"select writer()", `select public."writer"()`, "select pg_notify('a', 'b')", "select pg_current_xact_id()",
		"select pg_try_advisory_lock(1)",
		"select * into t2 from t", "show server_version", "select stable_looking()", "select * from seq_view",
		"select stable_looking() as again"} {
		require.False(t, onReplica(q), q)
	}
	require.NotZero(t, c.Stats().Healed, "a function that lies about itself was caught by the standby")
	require.EqualValues(t, 1, mustInt(t, c.DB(), "select count(*) from pg_stat_activity where false")+1)

	// pgx types and arguments pass through.
	var arr []int64
	require.NoError(t, c.DB().QueryRow("select array_agg(x) from unnest($1::bigint[]) x",
		[]int64{3, 4}).Scan(pgArray(&arr)))
	require.Equal(t, []int64{3, 4}, arr)
	conn, err := c.DB().Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, replica.Raw(t.Context(), conn, func(dc any) error {
		n, err := dc.(*stdlib.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"v"},
			pgx.CopyFromRows([][]any{{7}, {8}}))
		require.EqualValues(t, 2, n)
		return err
	}))
	require.NoError(t, conn.Close())
}

func mustInt(t testing.TB, db *sql.DB, q string) (n int64) {
	t.Helper()
	require.NoError(t, db.QueryRow(q).Scan(&n))
	return n
}

func pgArray(dst *[]int64) any { return pq.Array(dst) }

func TestPostgresReadYourWrites(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2,
		Config: map[string]string{"recovery_min_apply_delay": "'200ms'"}})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	replicated(t, s)
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{})
	stale, staleWithout := 0, 0
	for i := range 150 {
		ctx := replica.WithSession(t.Context(), replica.NewSession())
		_, err := c.DB().ExecContext(ctx, "insert into t values ($1)", i)
		require.NoError(t, err)
		var n int
		require.NoError(t, c.DB().QueryRowContext(t.Context(), "select count(*) from t where id = $1", i).Scan(&n))
		staleWithout += 1 - n
		require.NoError(t, c.DB().QueryRowContext(ctx, "select count(*) from t where id = $1", i).Scan(&n))
		stale += 1 - n
	}
	require.Zero(t, stale)
	require.Greater(t, staleWithout, 10, "the test must be able to see a stale read")
	t.Logf("stale reads in 150: %d with a session, %d without; %+v", stale, staleWithout, c.Stats().TokenMisses)
}

func TestLibPQ(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 1})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	var nodes []replica.Node
	for _, n := range s.Nodes {
		pc, err := pq.NewConnector(n.DSN())
		require.NoError(t, err)
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: pc})
	}
	c := open(t, replica.Postgres(), nodes, replica.Options{})
	ctx := replica.WithSession(t.Context(), replica.NewSession())
	for i := range 20 {
		_, err := c.DB().ExecContext(ctx, "insert into t values ($1)", i)
		require.NoError(t, err)
		var n int
		require.NoError(t, c.DB().QueryRowContext(ctx, "select count(*) from t where id = any($1)",
			pq.Array([]int{i})).Scan(&n))
		require.Equal(t, 1, n)
	}
	s.Nodes[1].Kill()
	for range 20 {
		mustInt(t, c.DB(), "select count(*) from t")
	}
}

func TestPostgresPreparedAndPinned(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	replicated(t, s)
	c := open(t, replica.Postgres(), pgNodes(t, s),
		replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
	ins, err := c.DB().Prepare("insert into t values ($1)")
	require.NoError(t, err)
	defer ins.Close()
	get, err := c.DB().Prepare("select count(*) from t where id >= $1")
	require.NoError(t, err)
	defer get.Close()
	_, err = ins.Exec(1)
	require.NoError(t, err)

	// A session's state stays with its connection, and goes with it.
	conn, err := c.DB().Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "create temp table mine (v int)")
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "insert into mine values (7)")
	require.NoError(t, err)
	var v int
	require.NoError(t, conn.QueryRowContext(t.Context(), "select v from mine").Scan(&v))
	var got bool
	require.NoError(t, conn.QueryRowContext(t.Context(), "select pg_try_advisory_lock(42)").Scan(&got))
	require.True(t, got)
	require.NoError(t, c.DB().QueryRow("select pg_try_advisory_lock(42)").Scan(&got))
	require.False(t, got, "the lock excludes others")
	require.NoError(t, conn.Close())
	waitFor(t, "the lock went with the session", func() bool {
		return c.DB().QueryRow("select pg_try_advisory_lock(42)").Scan(&got) == nil && got
	})

	s.Primary().Kill()
	defer func() {
		if t.Failed() {
			t.Logf("last error %v; %+v", err, c.Status())
		}
	}()
	waitFor(t, "prepared statements work on the new primary", func() bool { _, err = ins.Exec(2); return err == nil })
	var n int
	require.NoError(t, get.QueryRowContext(replica.Primary(t.Context()), 0).Scan(&n))
	require.Equal(t, 2, n)
	for range 20 {
		require.NoError(t, get.QueryRow(0).Scan(&n))
	}
}

func TestPostgresLagLimit(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 1,
		Config: map[string]string{"recovery_min_apply_delay": "'3s'"}})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{MaxLag: 300 * time.Millisecond})
	waitFor(t, "the lagging standby gets no reads", func() bool {
		mustExec(t, c.DB(), "insert into t select coalesce(max(id), 0) + 1 from t")
		before := c.Stats().Spilled
		mustInt(t, c.DB(), "select 1")
		return c.Stats().Spilled > before
	})
	require.Positive(t, c.Status().Nodes[1].Lag)
	require.Positive(t, c.Status().Nodes[1].LagBytes)
}
