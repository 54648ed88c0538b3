package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func nodes(ids ...string) (out []NodeConfig) {
	for _, id := range ids {
		out = append(out, NodeConfig{ID: id})
	}
	return out
}

func open(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Nodes == nil {
		o.Nodes = nodes("a", "b", "c")
	}
	c, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func db(t testing.TB, n *Node) *sql.DB {
	d := sql.OpenDB(n.Connector())
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func equalSums(t testing.TB, c *Cluster, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.Quiesce(ctx))
	sums, err := c.Checksums(ctx)
	require.NoError(t, err)
	require.Len(t, sums, n)
	for _, s := range sums {
		require.Equal(t, sums[c.Primary().ID()], s, "%v", sums)
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Log(debug())
			t.Fatal("not in time: " + what)
		}
	}
}

var debug = func() string { return "" }

func TestReplication(t *testing.T) {
	c := open(t, Options{})
	p, r := db(t, c.Node("a")), db(t, c.Node("b"))
	_, err := p.Exec(`create table t (id integer primary key, s text, b blob, f real, at timestamp, n int)`)
	require.NoError(t, err)
	res, err := p.Exec(`insert into t (s, b, f, at, n) values (?, ?, ?, ?, ?)`, "x'y", []byte{0, 1, 2}, 1.5, time.Now(),
		nil)
	require.NoError(t, err)
	id, err := res.LastInsertId()
	require.NoError(t, err)
	require.EqualValues(t, 1, id)
	require.NoError(t, p.QueryRow(`insert into t (s) values ('q') returning id`).Scan(&id))
	require.EqualValues(t, 2, id)

	tx, err := p.Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`insert into t (s) values ('in tx')`)
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(`select count(*) from t`).Scan(&n))
	require.Equal(t, 3, n, "a transaction sees its own writes")
	require.NoError(t, p.QueryRow(`select count(*) from t`).Scan(&n))
	require.Equal(t, 2, n, "others do not")
	require.NoError(t, tx.Rollback())
	tx, err = p.Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`insert into t (id) values (1)`)
	require.Error(t, err, "unique")
	_, err = tx.Exec(`insert into t (s) values ('kept')`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	equalSums(t, c, 3)
	require.NoError(t, r.QueryRow(`select count(*) from t`).Scan(&n))
	require.Equal(t, 3, n)
	_, err = r.Exec(`insert into t (s) values ('no')`)
	require.ErrorIs(t, err, ErrNotPrimary)
	require.NoError(t, p.QueryRow(`select count(*) from t where s = 'kept'`).Scan(&n))
	require.Equal(t, 1, n)
}

func TestDeterminism(t *testing.T) {
	for q, bad := range map[string]bool{
		"insert into t values (random())": true, "insert into t values (RandomBlob(4))": true,
		"insert into t values (datetime('now'))":             true,
		"insert into t values (datetime( 'NOW' , '+1 day'))": true, "insert into t values (current_timestamp)": true,
		"create table t (a default CURRENT_TIMESTAMP)": true,
		"insert into t values (date())":                true, "insert into t values (strftime('%s'))": true,
		"insert into t values (last_insert_rowid())": true,
		"update t set a = changes()":                 true, "pragma journal_mode = off": true, "begin": true,
		"vacuum":                            true,
		"insert into t values ('random()')": false, "insert into t values (datetime(?))": false,
		"insert into t values (strftime('%s', ?))":    false,
		`insert into "random" values (1) -- random()`: false, "insert into t (date, time) values (1, 2)": false,
		"insert into t values (date(?, '+1 day'))": false,
		"update t set changes = changes + 1":       false, "/* now() */ delete from t": false,
	} {
		require.Equal(t, bad, checkDeterministic(q) != nil, q)
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := record{epoch: rapid.Uint64().Draw(t, "epoch"), seq: rapid.Uint64().Draw(t, "seq")}
		for range rapid.IntRange(0, 4).Draw(t, "stmts") {
			s := statement{query: rapid.String().Draw(t, "q")}
			for i := range rapid.IntRange(0, 5).Draw(t, "args") {
				v := rapid.OneOf(rapid.Just[any](nil), rapid.Int64().AsAny(), rapid.Float64().AsAny(),
					rapid.String().AsAny(), rapid.Bool().AsAny(),
					rapid.SliceOfN(rapid.Byte(), 0, 20).AsAny()).Draw(t, "v")
				a := named(v)[0]
				a.Ordinal = i + 1
				s.args = append(s.args, a)
			}
			r.stmts = append(r.stmts, s)
		}
		b, err := appendRecord(nil, &r)
		require.NoError(t, err)
		got, n, err := decodeRecord(append(b, 1, 2, 3))
		require.NoError(t, err)
		require.Equal(t, len(b), n)
		require.Equal(t, fmt.Sprint(r), fmt.Sprint(got))
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		_, _, err = decodeRecord(b[:cut])
		require.Error(t, err)
	})
}

func TestReplicaKilledAndRestarted(t *testing.T) {
	c := open(t, Options{})
	p := db(t, c.Node("a"))
	_, err := p.Exec(`create table t (id integer primary key)`)
	require.NoError(t, err)
	c.Node("b").Gate().Kill()
	for range 50 {
		_, err := p.Exec(`insert into t default values`)
		require.NoError(t, err)
	}
	require.NoError(t, c.Restart(t.Context(), "b"))
	equalSums(t, c, 3)
	require.EqualValues(t, 1, c.Node("b").engine.Load().log.base.seq+1, "caught up from the log, not from a snapshot")
}

func TestCommitUnknownStopsWrites(t *testing.T) {
	var cut atomic.Bool
	c := open(t, Options{CommitTimeout: 50 * time.Millisecond, Link: func(context.Context, string, string) error {
		if cut.Load() {
			return errors.New("cut")
		}
		return nil
	}})
	p := db(t, c.Node("a"))
	_, err := p.Exec(`create table t (id integer primary key)`)
	require.NoError(t, err)
	cut.Store(true)
	_, err = p.Exec(`insert into t values (1)`)
	require.ErrorIs(t, err, ErrCommitUnknown)
	cut.Store(false)
	_, err = p.Exec(`insert into t values (2)`)
	require.ErrorIs(t, err, ErrNotPrimary, "writes have stopped")
	st := c.Node("a").Status()
	require.True(t, st.Stopped)
	// Promoted again, it keeps what its log has, under a new number.
	conn, err := c.Node("a").Connector().Connect(t.Context())
	require.NoError(t, err)
	_, err = c.promote(t.Context(), conn)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = p.Exec(`insert into t values (2)`)
	require.NoError(t, err)
	var n int
	require.NoError(t, p.QueryRow(`select count(*) from t`).Scan(&n))
	require.Equal(t, 2, n)
	require.Greater(t, c.Node("a").Status().Applied, st.Received)
	equalSums(t, c, 3)
}

func cluster(t testing.TB, c *Cluster) *replica.Cluster {
	t.Helper()
	rc, err := replica.New(c.Dialect(), c.Replicas(), replica.Options{ProbeInterval: 50 * time.Millisecond,
		Promotion: &replica.Promotion{Lease: replica.MemoryLease(), MinStandbys: 2},
		Hooks: &replica.Hooks{Promoted: func(r replica.PromotionReport, err error) {
			t.Logf("promotion %+v: %v", r, err)
		}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rc.Close() })
	require.NoError(t, rc.WaitReady(t.Context()))
	return rc
}

// Writers run through package replica while nodes are killed, frozen, thawed and restarted: every acknowledged insert
// is there exactly once, and all nodes end up equal.
func TestChaos(t *testing.T) {
	c := open(t, Options{NoFsync: true, CommitTimeout: 300 * time.Millisecond})
	rc := cluster(t, c)
	debug = func() string {
		out := fmt.Sprintf("%+v\n", rc.Status())
		for _, n := range c.Nodes() {
			out += fmt.Sprintf("%+v %v\n", n.Status(), n.Gate().State())
		}
		return out
	}
	defer func() { debug = func() string { return "" } }()
	_, err := rc.DB().Exec(`create table t (id text primary key, n int)`)
	require.NoError(t, err)
	require.NoError(t, c.Quiesce(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	var acked sync.Map
	var ackedN, unknown, failed, reads, readErrs atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d-%d", w, i)
				for {
					_, err := rc.DB().ExecContext(t.Context(),
						`insert into t (id, n) values (?, 1) on conflict (id) do nothing`, id)
					if err == nil {
						acked.Store(id, true)
						ackedN.Add(1)
						break
					}
					if errors.Is(err, replica.ErrCommitUnknown) {
						unknown.Add(1)
					} else {
						if failed.Add(1) < 5 {
							t.Log("write:", err)
						}
						if ctx.Err() != nil {
							return
						}
					}
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var n int
				if err := rc.DB().QueryRowContext(t.Context(),
					`select count(*) from t where id = '1-1'`).Scan(&n); err != nil {
					if readErrs.Add(1) < 5 {
						t.Log("read:", err)
					}
				}
				reads.Add(1)
				time.Sleep(200 * time.Microsecond)
			}
		})
	}
	progress := func() {
		t.Helper()
		from := ackedN.Load()
		waitFor(t, "writes go on", func() bool { return ackedN.Load() > from+50 })
	}
	allUp := func() {
		waitFor(t, "all up", func() bool {
			for _, n := range rc.Status().Nodes {
				if n.State != "up" || n.Fenced != "" {
					return false
				}
			}
			return rc.Status().Primary != ""
		})
	}
	for round := range 3 {
		progress()
		var worst time.Duration
		p := rc.Status().Primary
		began := time.Now()
		if round%2 == 0 {
			c.Node(p).Gate().Kill()
		} else {
			c.Node(p).Gate().Freeze()
		}
		waitFor(t, "promotion", func() bool { q := rc.Status().Primary; return q != "" && q != p })
		from := ackedN.Load()
		waitFor(t, "a write", func() bool { return ackedN.Load() > from })
		worst = time.Since(began)
		t.Logf("%s lost: writes again after %v", p, worst.Round(time.Millisecond))
		progress()
		if round%2 == 0 {
			require.NoError(t, c.Restart(ctx, p))
		} else {
			c.Node(p).Gate().Thaw()
		}
		allUp()
		progress()
		for _, n := range c.Nodes() { // a replica goes
			if n.ID() != rc.Status().Primary {
				n.Gate().Kill()
				progress()
				require.NoError(t, c.Restart(ctx, n.ID()))
				allUp()
				break
			}
		}
	}
	progress()
	stop()
	wg.Wait()
	t.Logf("%d acknowledged, %d unknown and repeated, %d failed; %d reads, %d failed", ackedN.Load(), unknown.Load(),
		failed.Load(), reads.Load(), readErrs.Load())
	require.Zero(t, readErrs.Load())
	require.Zero(t, failed.Load())
	equalSums(t, c, 3)
	have := map[string]bool{}
	rows, err := rc.DB().QueryContext(replica.Primary(t.Context()), `select id from t`)
	require.NoError(t, err)
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		have[id] = true
	}
	require.NoError(t, rows.Err())
	acked.Range(func(k, _ any) bool {
		require.True(t, have[k.(string)], "acknowledged %s is lost", k)
		return true
	})
}

// TestKillProcess kills a process that writes with kill -9 and opens its directory again.
func TestKillProcess(t *testing.T) {
	if dir := os.Getenv("LOGSHIP_VICTIM"); dir != "" {
		c, err := Open(Options{Dir: dir, Nodes: nodes("a", "b", "c")})
		if err != nil {
			t.Fatal(err)
		}
		d := sql.OpenDB(c.Node("a").Connector())
		if _, err := d.Exec(`create table t (id integer primary key)`); err != nil {
			t.Fatal(err)
		}
		for i := 1; ; i++ {
			if _, err := d.Exec(`insert into t values (?)`, i); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("acked %d\n", i)
		}
	}
	dir := t.TempDir()
	victim := exec.Command(os.Args[0], "-test.run=^TestKillProcess$")
	victim.Env = append(os.Environ(), "LOGSHIP_VICTIM="+dir)
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	last := 0
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if _, n, ok := strings.Cut(sc.Text(), "acked "); ok {
			last, _ = strconv.Atoi(n)
		}
		if last == 300 {
			require.NoError(t, victim.Process.Kill())
		}
	}
	_ = victim.Wait()
	require.GreaterOrEqual(t, last, 300)
	c := open(t, Options{Dir: dir})
	var n int
	require.NoError(t, db(t, c.Primary()).QueryRow(`select count(*) from t`).Scan(&n))
	require.GreaterOrEqual(t, n, last)
	require.LessOrEqual(t, n, last+1)
	equalSums(t, c, 3)
	_, err = db(t, c.Primary()).Exec(`insert into t values (?)`, n+1)
	require.NoError(t, err)
}

func BenchmarkCommit(b *testing.B) {
	for _, workers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", workers), func(b *testing.B) {
			c := open(b, Options{})
			d := db(b, c.Node("a"))
			_, err := d.Exec(`create table t (id integer primary key, s text)`)
			require.NoError(b, err)
			b.SetParallelism(workers)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := d.Exec(`insert into t (s) values (?)`, "some text"); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
