package replica_test

import (
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

func TestMariaDB(t *testing.T) { testMySQL(t, testserver.MariaDB, replica.MariaDB()) }
func TestMySQL(t *testing.T)   { testMySQL(t, testserver.MySQL, replica.MySQL()) }

// Tokens, healing and promotion: what the two have in common.
func testMySQL(t *testing.T, start func(testing.TB, testserver.MySQLOptions) *testserver.MySQLCluster,
	d replica.Dialect) {
	s := start(t, testserver.MySQLOptions{Replicas: 2})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key auto_increment, v int)")
	c := open(t, d, mysqlNodes(t, s), replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
	require.Equal(t, "m0", c.Status().Primary)
	waitFor(t, "the replicas have the table", func() bool {
		for _, n := range s.Nodes[1:] {
			if n.DB().QueryRow("select count(*) from t").Scan(new(int)) != nil {
				return false
			}
		}
		return true
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
		for _, n := range s.Nodes[1:] {
			if n.DB().QueryRow("select 1 from information_schema.routines where routine_name = 'sneaky'").Scan(
				new(int)) != nil {
				return false
			}
		}
		return true
	})
	require.EqualValues(t, 1, mustInt(t, c.DB(), "select test.sneaky()"))
	require.EqualValues(t, 1, c.Stats().Healed)

	// else the old primary would have what the new one never gets, and could not follow it
	waitFor(t, "the replicas have it all", func() bool {
		for _, n := range s.Nodes[1:] {
			if mustInt(t, n.DB(), "select count(*) from t") != 101 {
				return false
			}
		}
		return true
	})
	s.Primary().Kill()
	var err error
	waitFor(t, "a write after promotion", func() bool {
		_, err = c.DB().ExecContext(ctx, "insert into t (v) values (1000)")
		return err == nil
	})
	promoted := c.Status().Primary
	require.Contains(t, []string{"m1", "m2"}, promoted)
	var n int
	require.NoError(t, c.DB().QueryRowContext(replica.Primary(t.Context()),
		"select count(*) from t where v = 1000").Scan(&n))
	require.Equal(t, 1, n)
	// The other replica follows the new primary, and what a session writes is read back from it.
	waitFor(t, "the other one follows", func() bool {
		before := c.Stats().ReadsReplica
		require.NoError(t, c.DB().QueryRowContext(ctx, "select count(*) from t where v = 1000").Scan(&n))
		require.Equal(t, 1, n)
		return c.Stats().ReadsReplica > before
	})
	// The old primary comes back as it went, writable: it is not written to, and follows when it is told to.
	require.NoError(t, s.Primary().Restart(t.Context()))
	waitFor(t, "the old primary is fenced", func() bool { return c.Status().Nodes[0].Fenced != "" })
	for i := range 20 {
		_, err := c.DB().Exec("insert into t (v) values (?)", 2000+i)
		require.NoError(t, err)
	}
	require.Zero(t, mustInt(t, s.Primary().DB(), "select count(*) from t where v >= 2000"))
	for _, node := range s.Nodes[1:] {
		if node.Name == promoted {
			require.NoError(t, s.Primary().Follow(t.Context(), node))
		}
	}
	waitFor(t, "the old primary has everything", func() bool {
		return mustInt(t, s.Primary().DB(), "select count(*) from t where v >= 2000") == 20
	})
	waitFor(t, "and serves reads", func() bool {
		return c.Status().Nodes[0].Fenced == "" && c.Status().Nodes[0].State == "up"
	})
}

// A replica that is frozen, then killed: reads go on, at first after the probe's timeout, then at once.
func TestMariaDBReplicaLost(t *testing.T) {
	testMySQLReplicaLost(t, testserver.MariaDB, replica.MariaDB())
}
func TestMySQLReplicaLost(t *testing.T) { testMySQLReplicaLost(t, testserver.MySQL, replica.MySQL()) }

func testMySQLReplicaLost(t *testing.T, start func(testing.TB, testserver.MySQLOptions) *testserver.MySQLCluster,
	d replica.Dialect) {
	s := start(t, testserver.MySQLOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (v int)")
	waitFor(t, "replication", func() bool {
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(new(int)) == nil
	})
	c := open(t, d, mysqlNodes(t, s), replica.Options{})
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

func mysqlNodes(t testing.TB, s *testserver.MySQLCluster) (nodes []replica.Node) {
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
