package replica_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

// Readers and writers run while a standby is killed, another frozen, and the primary killed: reads never fail, and
// every acknowledged write is there afterwards.
func TestPostgresFailover(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	replicated(t, s)
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
				if err := c.DB().QueryRowContext(t.Context(),
					"select count(*) from t where id < 10").Scan(&n); err != nil {
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
	c := open(t, replica.Postgres(), pgNodes(t, s),
		replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()}})
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
	require.ErrorIs(t, tx.Commit(), replica.ErrTxLost, "it was replaced before the commit was sent")
	waitFor(t, "fenced", func() bool { return c.Status().Nodes[0].Fenced != "" })
	mustExec(t, c.DB(), "insert into t values (5)")
	var n int
	require.NoError(t, c.DB().QueryRowContext(replica.Primary(t.Context()),
		"select count(*) from t where id in (2, 5)").Scan(&n))
	require.Equal(t, 1, n)
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
	replicated(t, s)
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
	c := open(t, replica.Postgres(), nodes, replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()},
		PrimaryWait: -1,
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
