package replica

import (
	"context"
	"database/sql"
	"errors"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/tsenart/nap"
	gormpg "gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/plugin/dbresolver"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func pgCluster(b *testing.B, s *testserver.PostgresCluster, o replica.Options) *replica.Cluster {
	b.Helper()
	var nodes []replica.Node
	for _, n := range s.Nodes {
		cfg, err := pgx.ParseConfig(n.DSN())
		must(b, err)
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: stdlib.GetConnector(*cfg), ConnInfo: n.ConnInfo()})
	}
	c, err := replica.New(replica.Postgres(), nodes, o)
	must(b, err)
	b.Cleanup(func() { _ = c.Close() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		up := 0
		for _, n := range c.Status().Nodes {
			if n.State == "up" {
				up++
			}
		}
		if up == len(nodes) {
			return c
		}
		if time.Now().After(deadline) {
			b.Fatalf("%+v", c.Status())
		}
	}
}

// BenchmarkPostgresRead is a point read by primary key. All servers share this machine, so spreading cannot be faster
// than the limit.
func BenchmarkPostgresRead(b *testing.B) {
	s := testserver.Postgres(b, testserver.PostgresOptions{Standbys: 2})
	_, err := s.Primary().DB().Exec(`create table users (id int primary key, name text); insert into users select i, 'user ' || i from generate_series(1, 10000) i`)
	must(b, err)
	time.Sleep(200 * time.Millisecond)
	const q = `select name from users where id = $1`
	read := func(b *testing.B, db interface {
		QueryRow(query string, args ...any) *sql.Row
	}) {
		var name string
		i := 0
		for b.Loop() {
			i++
			if err := db.QueryRow(q, i%10000+1).Scan(&name); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("point/limit", func(b *testing.B) {
		db, err := sql.Open("pgx", s.Nodes[1].DSN())
		must(b, err)
		defer db.Close()
		read(b, db)
	})
	b.Run("point/nap", func(b *testing.B) {
		db, err := nap.Open("pgx", s.Nodes[0].DSN()+";"+s.Nodes[1].DSN()+";"+s.Nodes[2].DSN())
		must(b, err)
		defer db.Close()
		read(b, db)
	})
	b.Run("point/gorm-dbresolver", func(b *testing.B) {
		open := func(i int) gorm.Dialector { return gormpg.New(gormpg.Config{DSN: s.Nodes[i].DSN()}) }
		db, err := gorm.Open(open(0), &gorm.Config{})
		must(b, err)
		must(b, db.Use(dbresolver.Register(dbresolver.Config{Replicas: []gorm.Dialector{open(1), open(2)}})))
		var name string
		i := 0
		for b.Loop() {
			i++
			if err := db.Raw(q, i%10000+1).Scan(&name).Error; err != nil {
				b.Fatal(err)
			}
		}
		if pool, err := db.DB(); err == nil {
			pool.Close()
		}
	})
	b.Run("point/tierkit", func(b *testing.B) { read(b, pgCluster(b, s, replica.Options{}).DB()) })
}

// BenchmarkReadYourWrites inserts and reads back at once, with 8 users. It reports stale reads and the share of reads
// on the primary.
func BenchmarkReadYourWrites(b *testing.B) {
	run := func(b *testing.B, c *replica.Cluster, session bool) {
		var stale, seq atomic.Int64
		before := c.Stats()
		b.SetParallelism(4)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				ctx := context.Background()
				if session {
					ctx = replica.WithSession(ctx, replica.NewSession())
				}
				id := seq.Add(1)
				if _, err := c.DB().ExecContext(ctx, `insert into t values ($1)`, id); err != nil {
					b.Error(err)
					return
				}
				var n int
				if err := c.DB().QueryRowContext(ctx, `select count(*) from t where id = $1`, id).Scan(&n); err != nil {
					b.Error(err)
					return
				}
				stale.Add(int64(1 - n))
			}
		})
		b.StopTimer()
		st := c.Stats()
		primary := float64(st.ReadsPrimary + st.Spilled - before.ReadsPrimary - before.Spilled)
		b.ReportMetric(float64(stale.Load())/float64(b.N), "stale/read")
		b.ReportMetric(100*primary/float64(b.N), "%primary")
	}
	b.Run("delay200ms/tierkit", func(b *testing.B) {
		s := testserver.Postgres(b, testserver.PostgresOptions{Standbys: 2,
			Config: map[string]string{"recovery_min_apply_delay": "'200ms'"}})
		_, err := s.Primary().DB().Exec(`create table t (id bigint primary key)`)
		must(b, err)
		time.Sleep(500 * time.Millisecond)
		run(b, pgCluster(b, s, replica.Options{}), true)
	})
	b.Run("pgbench/tierkit", func(b *testing.B) {
		s := testserver.Postgres(b, testserver.PostgresOptions{Standbys: 2})
		_, err := s.Primary().DB().Exec(`create table t (id bigint primary key)`)
		must(b, err)
		bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
		if len(bins) == 0 {
			b.Skip("no pgbench: apt-get install postgresql-contrib")
		}
		args := []string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.Primary().Port()), "-U", "postgres", "postgres"}
		out, err := exec.Command(bins[0], append([]string{"-i", "-q"}, args...)...).CombinedOutput()
		if err != nil {
			b.Fatal(err, string(out))
		}
		load := exec.Command(bins[0], append([]string{"-c", "4", "-T", "600"}, args...)...)
		load.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		must(b, load.Start())
		defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
		c := pgCluster(b, s, replica.Options{})
		time.Sleep(500 * time.Millisecond)
		run(b, c, true)
	})
}

// BenchmarkFailover kills the primary under load and reports the time from its ejection (at the first refused
// connection) to the first write that succeeded on the new one.
func BenchmarkFailover(b *testing.B) {
	b.Run("kill/tierkit", func(b *testing.B) {
		var took []float64
		for range min(b.N, 5) {
			took = append(took, failover(b).Seconds()*1000)
		}
		sort.Float64s(took)
		b.ReportMetric(took[len(took)/2], "ms-median")
		b.ReportMetric(took[len(took)-1], "ms-max")
	})
}

func failover(b *testing.B) time.Duration {
	s := testserver.Postgres(b, testserver.PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	_, err := s.Primary().DB().Exec(`create table t (id bigint primary key)`)
	must(b, err)
	var refused atomic.Int64
	c := pgCluster(b, s, replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease()},
		Hooks: &replica.Hooks{NodeChanged: func(before, after replica.NodeStatus) {
			if after.Name == "s0" && after.State == "down" {
				refused.CompareAndSwap(0, time.Now().UnixNano())
			}
		}}})
	var id, done atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := c.DB().Exec(`insert into t values ($1)`, id.Add(1))
				if err == nil && refused.Load() > 0 {
					done.CompareAndSwap(0, time.Now().UnixNano())
				} else if err != nil && !errors.Is(err, replica.ErrCommitUnknown) {
					b.Log(err)
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	s.Primary().Kill()
	for deadline := time.Now().Add(20 * time.Second); done.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if done.Load() == 0 {
		b.Fatal("no write after the failover")
	}
	return time.Duration(done.Load() - refused.Load())
}
