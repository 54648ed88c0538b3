package replica_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/testserver"
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
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
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
			if n.DB().QueryRow("select n from (select 1 from pg_views where viewname = 'seq_view') x(n)").Scan(new(int)) != nil {
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
	for _, q := range []string{"select * from t", "-- name: List :many\nselect id from t where v > 3", "values (1)", "table t", "with x as (select 1) select * from x",
		"select 'returning'", `select v as "update" from t`} {
		require.True(t, onReplica(q), q)
	}
	for _, q := range []string{"insert into t (v) values (1) returning id", "with x as (insert into t (v) values (1) returning id) select * from x",
		"select * from t for update", "select * from t for no key update;", "select * from t for update skip locked", "select nextval('s')",
		"select writer()", `select public."writer"()`, "select pg_notify('a', 'b')", "select pg_current_xact_id()", "select pg_try_advisory_lock(1)",
		"select * into t2 from t", "show server_version", "select stable_looking()", "select * from seq_view", "select stable_looking() as again"} {
		require.False(t, onReplica(q), q)
	}
	require.NotZero(t, c.Stats().Healed, "a function that lies about itself was caught by the standby")
	require.EqualValues(t, 1, mustInt(t, c.DB(), "select count(*) from pg_stat_activity where false")+1)

	// pgx types and arguments pass through.
	var arr []int64
	require.NoError(t, c.DB().QueryRow("select array_agg(x) from unnest($1::bigint[]) x", []int64{3, 4}).Scan(pgArray(&arr)))
	require.Equal(t, []int64{3, 4}, arr)
	conn, err := c.DB().Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, replica.Raw(t.Context(), conn, func(dc any) error {
		n, err := dc.(*stdlib.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"v"}, pgx.CopyFromRows([][]any{{7}, {8}}))
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
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Config: map[string]string{"recovery_min_apply_delay": "'200ms'"}})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	time.Sleep(300 * time.Millisecond) // the apply delay
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
	require.Greater(t, staleWithout, 75, "the test must be able to see a stale read")
	t.Logf("stale reads in 150: %d with a session, %d without; %+v", stale, staleWithout, c.Stats().TokenMisses)
}

// Readers and writers run while a standby is killed, another frozen, and the primary killed: reads never fail, and every
// acknowledged write is there afterwards.
func TestPostgresFailover(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	var reports []replica.PromotionReport
	var mu sync.Mutex
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{
		Promotion: &replica.Promotion{Lease: replica.MemoryLease()},
		Hooks: &replica.Hooks{Promoted: func(r replica.PromotionReport, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				reports = append(reports, r)
			} else {
				t.Log(err)
			}
		}},
	})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var reads, readErrs atomic.Int64
	var acked sync.Map
	var ackedN atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var n int
				if err := c.DB().QueryRowContext(t.Context(), "select count(*) from t where id < 10").Scan(&n); err != nil {
					readErrs.Add(1)
					t.Log("read:", err)
				}
				reads.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	var id atomic.Int64
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := id.Add(1)
				_, err := c.DB().ExecContext(t.Context(), "insert into t values ($1)", k)
				switch {
				case err == nil:
					acked.Store(k, true)
					ackedN.Add(1)
				case !errors.Is(err, replica.ErrCommitUnknown):
					t.Log("write:", err)
				}
			}
		})
	}
	progress := func() {
		from := ackedN.Load()
		waitFor(t, "writes go on", func() bool { return ackedN.Load() > from+20 })
	}
	progress()
	s.Nodes[1].Kill()
	progress()
	require.NoError(t, s.Nodes[1].Restart(ctx))
	waitFor(t, "the standby is back", func() bool { return c.Status().Nodes[1].State == "up" })
	s.Nodes[2].Freeze()
	time.Sleep(time.Second)
	progress()
	s.Nodes[2].Thaw()
	waitFor(t, "the standby is back", func() bool { return c.Status().Nodes[2].State == "up" })
	progress()

	killed := time.Now()
	s.Nodes[0].Kill()
	from := ackedN.Load()
	waitFor(t, "a write on the new primary", func() bool { return ackedN.Load() > from+2 })
	t.Logf("kill -9 of the primary to the first acknowledged writes: %v", time.Since(killed).Round(time.Millisecond))
	progress()
	require.NoError(t, s.Nodes[0].Restart(ctx)) // it accepts writes on the old timeline
	waitFor(t, "the old primary is seen and fenced", func() bool { return c.Status().Nodes[0].Fenced != "" })
	progress()
	stop()
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, reports, 1)
	t.Logf("%+v", reports[0])
	require.Zero(t, readErrs.Load(), "of %d reads", reads.Load())
	lost := 0
	primary := c.Status().Primary
	for _, n := range s.Nodes {
		if n.Name == primary {
			have := map[int64]bool{}
			rows, err := n.DB().Query("select id from t")
			require.NoError(t, err)
			for rows.Next() {
				var k int64
				require.NoError(t, rows.Scan(&k))
				have[k] = true
			}
			require.NoError(t, rows.Err())
			acked.Range(func(k, _ any) bool {
				if !have[k.(int64)] {
					lost++
				}
				return true
			})
		}
	}
	require.Zero(t, lost, "acknowledged writes lost of %d", ackedN.Load())
	plan, err := c.RecoveryPlan("s0")
	require.NoError(t, err)
	require.NotEmpty(t, plan.Steps)
}

// A primary frozen under load is replaced; when it thaws, nothing it says is believed.
func TestPostgresFrozenPrimary(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
	mustExec(t, c.DB(), "insert into t values (1)")
	tx, err := c.DB().Begin()
	require.NoError(t, err)
	_, err = tx.Exec("insert into t values (2)")
	require.NoError(t, err)
	s.Nodes[0].Freeze()
	_, err = c.DB().Exec("insert into t values (3)")
	if err != nil { // it was already on its way to the frozen one
		require.ErrorIs(t, err, replica.ErrCommitUnknown)
	}
	waitFor(t, "promotion", func() bool { p := c.Status().Primary; return p != "" && p != "s0" })
	mustExec(t, c.DB(), "insert into t values (4)")
	s.Nodes[0].Thaw()
	require.ErrorIs(t, tx.Commit(), replica.ErrCommitUnknown)
	waitFor(t, "fenced", func() bool { return c.Status().Nodes[0].Fenced != "" })
	mustExec(t, c.DB(), "insert into t values (5)")
	var n int
	require.NoError(t, c.DB().QueryRowContext(replica.Primary(t.Context()), "select count(*) from t where id in (2, 5)").Scan(&n))
	require.Equal(t, 1, n)
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
		require.NoError(t, c.DB().QueryRowContext(ctx, "select count(*) from t where id = any($1)", pq.Array([]int{i})).Scan(&n))
		require.Equal(t, 1, n)
	}
	s.Nodes[1].Kill()
	for range 20 {
		mustInt(t, c.DB(), "select count(*) from t")
	}
}

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

func TestPostgresPreparedAndPinned(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
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
	waitFor(t, "prepared statements work on the new primary", func() bool { _, err = ins.Exec(2); return err == nil })
	var n int
	require.NoError(t, get.QueryRowContext(replica.Primary(t.Context()), 0).Scan(&n))
	require.Equal(t, 2, n)
	for range 20 {
		require.NoError(t, get.QueryRow(0).Scan(&n))
	}
}

func TestPostgresLagLimit(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 1, Config: map[string]string{"recovery_min_apply_delay": "'3s'"}})
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

// 0 failed reads in 1000 with one of two standbys killed under 8 readers, and with both killed.
func TestPostgresReplicasKilled(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2})
	c := open(t, replica.Postgres(), pgNodes(t, s), replica.Options{})
	for _, victim := range []*testserver.PostgresNode{s.Nodes[1], s.Nodes[2]} {
		var n atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for n.Add(1) <= 1000 {
					var one int
					if err := c.DB().QueryRow("select 1").Scan(&one); err != nil {
						t.Error(err)
					}
				}
			})
		}
		waitFor(t, "readers are busy", func() bool { return n.Load() > 200 })
		victim.Kill()
		wg.Wait()
	}
	require.Positive(t, c.Stats().Spilled)
	require.Positive(t, c.Stats().Retried)
	require.NoError(t, s.Nodes[1].Restart(t.Context()))
	waitFor(t, "reads return to the standby", func() bool {
		before := c.Stats().ReadsReplica
		mustInt(t, c.DB(), "select 1")
		return c.Stats().ReadsReplica > before
	})
}

// This process loses its way to the primary, which goes on serving others: nothing is promoted. Then the primary dies.
func TestPostgresCutOffProcess(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	var cutOff atomic.Bool
	over := make(chan struct{})
	defer close(over)
	nodes := pgNodes(t, s)
	cfg, err := pgx.ParseConfig(s.Nodes[0].DSN())
	require.NoError(t, err)
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if cutOff.Load() { // packets vanish
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-over:
				return nil, net.ErrClosed
			}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &lossy{Conn: conn, cut: &cutOff}, err
	}
	nodes[0].Connector = stdlib.GetConnector(*cfg)
	refused := make(chan error, 100)
	c := open(t, replica.Postgres(), nodes, replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}, PrimaryWait: -1,
		Hooks: &replica.Hooks{Promoted: func(_ replica.PromotionReport, err error) {
			select {
			case refused <- err:
			default:
			}
		}}})
	mustExec(t, c.DB(), "insert into t values (0)")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // the others write on
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := s.Nodes[0].DB().Exec("insert into t values ($1)", i); err != nil {
				return
			}
		}
	})
	cutOff.Store(true)
	for range 2 {
		select {
		case err := <-refused:
			require.ErrorIs(t, err, replica.ErrPromotion)
			require.ErrorContains(t, err, "hear from s0")
		case <-time.After(30 * time.Second):
			t.Fatal("no promotion was tried")
		}
	}
	require.Empty(t, c.Status().Primary)
	mustInt(t, c.DB(), "select count(*) from t") // the standbys serve on
	close(stop)
	wg.Wait()
	s.Nodes[0].Kill()
	waitFor(t, "promotion", func() bool { return c.Status().Primary != "" })
	mustExec(t, c.DB(), "insert into t values (1000000)")
}

// lossy is a connection whose packets vanish.
type lossy struct {
	net.Conn
	cut *atomic.Bool
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.cut.Load() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}
