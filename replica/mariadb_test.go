package replica_test

import (
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/testserver"
	"github.com/tierkit/tierkit/replica"
)

func TestMariaDB(t *testing.T) {
	s := testserver.MariaDB(t, testserver.MariaDBOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key auto_increment, v int)")
	c := open(t, replica.MariaDB(), mariaNodes(t, s), replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
	require.Equal(t, "m0", c.Status().Primary)
	waitFor(t, "the replica has the table", func() bool {
		return c.DB().QueryRowContext(replica.Replica(t.Context()), "select count(*) from t").Scan(new(int)) == nil
	})
	ctx := replica.WithSession(t.Context(), replica.NewSession())
	for i := range 100 {
		res, err := c.DB().ExecContext(ctx, "insert into t (v) values (?)", i)
		require.NoError(t, err)
		id, err := res.LastInsertId()
		require.NoError(t, err)
		var v int
		require.NoError(t, c.DB().QueryRowContext(ctx, "select v from t where id = ?", id).Scan(&v), "stale at %d", i)
		require.Equal(t, i, v)
	}
	st := c.Stats()
	require.NotZero(t, st.ReadsReplica)
	t.Logf("reads on the replica %d, waited %d, on the primary %d", st.ReadsReplica, st.TokenWaits, st.TokenMisses)
	mustExec(t, s.Primary().DB(), "create function test.sneaky() returns int deterministic begin insert into test.t (v) values (1); return 1; end")
	waitFor(t, "the function is on the replica", func() bool {
		return s.Nodes[1].DB().QueryRow("select 1 from information_schema.routines where routine_name = 'sneaky'").Scan(new(int)) == nil
	})
	require.EqualValues(t, 1, mustInt(t, c.DB(), "select test.sneaky()"))
	require.EqualValues(t, 1, c.Stats().Healed)

	s.Primary().Kill()
	var err error
	waitFor(t, "a write after promotion", func() bool {
		_, err = c.DB().Exec("insert into t (v) values (1000)")
		return err == nil
	})
	require.Equal(t, "m1", c.Status().Primary)
	var n int
	require.NoError(t, c.DB().QueryRowContext(replica.Primary(t.Context()), "select count(*) from t where v = 1000").Scan(&n))
	require.Equal(t, 1, n)
}

// A replica whose data silently differs is found by comparing a sample of its reads.
func TestShadowReads(t *testing.T) {
	s := testserver.MariaDB(t, testserver.MariaDBOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (id int primary key, v int)")
	mustExec(t, s.Primary().DB(), "insert into t values (1, 1), (2, 2)")
	waitFor(t, "replication", func() bool {
		var n int
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(&n) == nil && n == 2
	})
	c := open(t, replica.MariaDB(), mariaNodes(t, s), replica.Options{ShadowFraction: 1})
	read := func() {
		var v int
		require.NoError(t, c.DB().QueryRow("select v from t where id = ?", 2).Scan(&v))
	}
	waitFor(t, "comparisons", func() bool { read(); return c.Stats().ShadowReads > 5 })
	require.Zero(t, c.Stats().ShadowDiffs)
	conn, err := s.Nodes[1].DB().Conn(t.Context())
	require.NoError(t, err)
	for _, q := range []string{"set sql_log_bin = 0", "update t set v = 99 where id = 2"} { // somebody repairs a replica by hand
		_, err := conn.ExecContext(t.Context(), q)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	waitFor(t, "the difference is counted", func() bool { read(); return c.Stats().ShadowDiffs > 0 })
}

func mariaNodes(t testing.TB, s *testserver.MariaDBCluster) (nodes []replica.Node) {
	t.Helper()
	for _, n := range s.Nodes {
		app, err := mysql.ParseDSN(n.DSN())
		require.NoError(t, err)
		root, err := mysql.ParseDSN(n.AdminDSN())
		require.NoError(t, err)
		ac, err := mysql.NewConnector(app)
		require.NoError(t, err)
		rc, err := mysql.NewConnector(root)
		require.NoError(t, err)
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: ac, Admin: rc, ConnInfo: n.ConnInfo()})
	}
	return nodes
}

// What MariaDB does in silence on a replica (locks, temporary tables, the last id) is the worst to send there: nothing fails, and it is wrong.
func TestMariaDBRouting(t *testing.T) {
	s := testserver.MariaDB(t, testserver.MariaDBOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key auto_increment, v int)")
	mustExec(t, s.Primary().DB(), "create sequence s")
	mustExec(t, s.Primary().DB(), "insert into t (v) values (1), (2), (3)")
	waitFor(t, "replication", func() bool {
		var n int
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(&n) == nil && n == 3
	})
	c := open(t, replica.MariaDB(), mariaNodes(t, s), replica.Options{})
	onReplica := func(q string) bool {
		before := c.Stats().ReadsReplica
		conn, err := c.DB().Conn(t.Context()) // what is pinned ends with it
		require.NoError(t, err)
		defer conn.Close()
		rows, err := conn.QueryContext(t.Context(), q)
		require.NoError(t, err, q)
		for rows.Next() {
		}
		require.NoError(t, rows.Err(), q)
		require.NoError(t, rows.Close())
		return c.Stats().ReadsReplica > before
	}
	for _, q := range []string{"select * from t", "# a comment\nselect v from t", "-- another\nselect v from t where v > 1", "values (1)", "with x as (select 1 as n) select * from x",
		"select 'for update'", "select `v` as `insert` from t"} {
		require.True(t, onReplica(q), q)
	}
	for _, q := range []string{"select get_lock('a', 0)", "select release_lock('a')", "select last_insert_id()", "select nextval(s)", "select next value for s", "select previous value for s",
		"select * from t for update", "select * from t lock in share mode", "insert into t (v) values (9) returning id", "select found_rows()",
		"select sql_calc_found_rows * from t limit 1", "show tables", "select @x := 1", "select /*! v */ from t", "select /*! v into @y */ from t limit 1", "select is_free_lock('a')"} {
		require.False(t, onReplica(q), q)
	}
	require.Zero(t, c.Stats().Healed, "nothing had to fail first")

	// A lock excludes others, whoever asks; a temporary table and the last id stay with the connection.
	conn, err := c.DB().Conn(t.Context())
	require.NoError(t, err)
	var got int
	require.NoError(t, conn.QueryRowContext(t.Context(), "select get_lock('mine', 0)").Scan(&got))
	require.Equal(t, 1, got)
	require.NoError(t, c.DB().QueryRow("select get_lock('mine', 0)").Scan(&got))
	require.Equal(t, 0, got)
	_, err = conn.ExecContext(t.Context(), "create temporary table mine (v int)")
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "insert into mine values (7)")
	require.NoError(t, err)
	require.NoError(t, conn.QueryRowContext(t.Context(), "select v from mine").Scan(&got))
	require.Equal(t, 7, got)
	require.NoError(t, conn.Close())
	waitFor(t, "the lock went with the session", func() bool {
		return c.DB().QueryRow("select get_lock('mine', 0)").Scan(&got) == nil && got == 1
	})
}

// A replica that is frozen, then killed: reads go on, at first after the probe's timeout, then at once.
func TestMariaDBReplicaLost(t *testing.T) {
	s := testserver.MariaDB(t, testserver.MariaDBOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (v int)")
	waitFor(t, "replication", func() bool { return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(new(int)) == nil })
	c := open(t, replica.MariaDB(), mariaNodes(t, s), replica.Options{})
	s.Nodes[1].Freeze()
	for range 50 {
		mustInt(t, c.DB(), "select count(*) from t")
	}
	waitFor(t, "the frozen one is out", func() bool { return c.Status().Nodes[1].State == "down" })
	s.Nodes[1].Thaw()
	waitFor(t, "it is back", func() bool {
		before := c.Stats().ReadsReplica
		mustInt(t, c.DB(), "select count(*) from t")
		return c.Stats().ReadsReplica > before
	})
	s.Nodes[1].Kill()
	for range 50 {
		mustInt(t, c.DB(), "select count(*) from t")
	}
	require.Positive(t, c.Stats().Spilled)
}
