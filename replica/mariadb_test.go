package replica_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

// A replica whose data silently differs is found by comparing a sample of its reads.
func TestShadowReads(t *testing.T) {
	s := testserver.MariaDB(t, testserver.MySQLOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (id int primary key, v int)")
	mustExec(t, s.Primary().DB(), "insert into t values (1, 1), (2, 2)")
	waitFor(t, "replication", func() bool {
		var n int
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(&n) == nil && n == 2
	})
	c := open(t, replica.MariaDB(), mysqlNodes(t, s), replica.Options{ShadowFraction: 1})
	read := func() {
		var v int
		require.NoError(t, c.DB().QueryRow("select v from t where id = ?", 2).Scan(&v))
	}
	waitFor(t, "comparisons", func() bool { read(); return c.Stats().ShadowReads > 5 })
	require.Zero(t, c.Stats().ShadowDiffs)
	conn, err := s.Nodes[1].DB().Conn(t.Context())
	require.NoError(t, err)
	// somebody repairs a replica by hand
	for _, q := range []string{"set sql_log_bin = 0", "update t set v = 99 where id = 2"} {
		_, err := conn.ExecContext(t.Context(), q)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	waitFor(t, "the difference is counted", func() bool { read(); return c.Stats().ShadowDiffs > 0 })
}

// What these servers do in silence on a replica (locks, temporary tables, the last id) is the worst to send there:
// nothing fails, and it is wrong.
func TestMariaDBRouting(t *testing.T) {
	testMySQLRouting(t, testserver.MariaDB, replica.MariaDB(), []string{"create sequence s"},
		[]string{"values (1)", "with x as (select 1 as n) select * from x"},
		[]string{"select nextval(s)", "select next value for s", "select previous value for s",
			"insert into t (v) values (9) returning id"})
}

func TestMySQLRouting(t *testing.T) {
	testMySQLRouting(t, testserver.MySQL, replica.MySQL(), nil, nil, []string{"select uuid_short()"})
}

func testMySQLRouting(t *testing.T, start func(testing.TB, testserver.MySQLOptions) *testserver.MySQLCluster,
	d replica.Dialect, schema, reads, writes []string) {
	s := start(t, testserver.MySQLOptions{Replicas: 1})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key auto_increment, v int)")
	for _, q := range schema {
		mustExec(t, s.Primary().DB(), q)
	}
	mustExec(t, s.Primary().DB(), "insert into t (v) values (1), (2), (3)")
	waitFor(t, "replication", func() bool {
		var n int
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(&n) == nil && n == 3
	})
	c := open(t, d, mysqlNodes(t, s), replica.Options{})
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
	for _, q := range append(reads, "select * from t", "# a comment\nselect v from t",
		"-- another\nselect v from t where v > 1", "select 'for update'", "select `v` as `insert` from t") {
		require.True(t, onReplica(q), q)
	}
	for _, q := range append(writes, "select get_lock('a', 0)", "select release_lock('a')", "select last_insert_id()",
		"select * from t for update", "select * from t lock in share mode",
		"select found_rows()", "select sql_calc_found_rows * from t limit 1", "show tables", "select @x := 1",
		"select /*! v */ from t", "select /*! v into @y */ from t limit 1",
		"select is_free_lock('a')") {
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
