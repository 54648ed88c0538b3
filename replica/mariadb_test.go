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
	var nodes []replica.Node
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
	c := open(t, replica.MariaDB(), nodes, replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
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
	var nodes []replica.Node
	for _, n := range s.Nodes {
		cfg, err := mysql.ParseDSN(n.DSN())
		require.NoError(t, err)
		conn, err := mysql.NewConnector(cfg)
		require.NoError(t, err)
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: conn})
	}
	c := open(t, replica.MariaDB(), nodes, replica.Options{ShadowFraction: 1})
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
