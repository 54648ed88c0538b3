// Command replica shows package replica at work: three SQLite databases, one primary and two replicas kept by log
// shipping, behind one *sql.DB. It reads and writes while a replica and then the primary are killed, and ends with the
// books.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/standin/sqlite"
	"github.com/tierkit/tierkit/replica"
)

func main() {
	length := flag.Duration("step", 700*time.Millisecond, "how long each step runs")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"replica: reads and writes through failures of a replica and of the primary.\n\nUsage: go run ./examples/replica [-step 700ms]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || *length <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*length); err != nil {
		fmt.Fprintln(os.Stderr, "replica:", err)
		os.Exit(1)
	}
}

func run(step time.Duration) error {
	dir, err := os.MkdirTemp("", "tierkit-replica-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nodes, err := sqlite.Open(sqlite.Options{Dir: dir,
		Nodes: []sqlite.NodeConfig{{ID: "db1"}, {ID: "db2"}, {ID: "db3"}}})
	if err != nil {
		return err
	}
	defer nodes.Close()
	cluster, err := replica.New(nodes.Dialect(), nodes.Replicas(), replica.Options{
		ProbeInterval: 100 * time.Millisecond,
		Promotion:     &replica.Promotion{Lease: replica.MemoryLease(), MinStandbys: 2},
		Hooks: &replica.Hooks{Promoted: func(r replica.PromotionReport, err error) {
			if err == nil {
				fmt.Printf("   promoted %s in %v; it lost %d records of %s; %v follow it\n", r.To,
					r.Took.Round(time.Microsecond), r.LossBytes, r.From, r.Repointed)
			}
		}},
	})
	if err != nil {
		return err
	}
	defer cluster.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cluster.WaitReady(ctx); err != nil {
		return err
	}
	db := cluster.DB()
	if _, err := db.ExecContext(ctx, `create table visits (id integer primary key, who text)`); err != nil {
		return err
	}
	if err := nodes.Quiesce(ctx); err != nil {
		return err
	}

	fmt.Println("1. Where statements go, and why")
	for _, q := range []string{"select * from visits where id = ?", "insert into visits values (1, 'x')",
		"with gone as (delete from visits returning *) select * from gone", "select last_insert_rowid()"} {
		x := cluster.Explain(q)
		fmt.Printf("   %-66s %-8s %s\n", q, x.Class, x.Reason)
	}

	load := newLoad(cluster)
	defer load.stop()
	show := func(title string) {
		before := cluster.Stats()
		fmt.Println(title)
		time.Sleep(step)
		after := cluster.Stats()
		fmt.Print("  ")
		for i, n := range after.Nodes {
			fmt.Printf(" %s %s: %d reads, %d writes;", n.Node, role(n), n.Reads-before.Nodes[i].Reads,
				n.Writes-before.Nodes[i].Writes)
		}
		fmt.Printf(" failed reads so far %d\n", load.readErrs.Load())
	}
	show("2. Reads are spread over the replicas; each user sees what he wrote")
	nodes.Node("db2").Gate().Kill()
	show("3. Replica db2 is killed")
	if err := nodes.Restart(ctx, "db2"); err != nil {
		return err
	}
	show("4. It is back, and has caught up")
	began := time.Now()
	old := cluster.Status().Primary
	acked := load.acked.Load()
	nodes.Node(old).Gate().Kill()
	for load.acked.Load() == acked && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	show(fmt.Sprintf("5. Primary %s is killed; writes go on after %v", old, took.Round(time.Millisecond)))
	if err := nodes.Restart(ctx, old); err != nil {
		return err
	}
	show("6. The old primary is back as a replica")
	load.stop()

	if err := nodes.Quiesce(ctx); err != nil {
		return err
	}
	sums, err := nodes.Checksums(ctx)
	if err != nil {
		return err
	}
	lost, err := load.missing(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("7. The books: %d writes acknowledged, %d lost; %d reads, %d failed, %d of them stale for their own user; checksums %v\n",
		load.acked.Load(), lost, load.reads.Load(), load.readErrs.Load(), load.stale.Load(), sums)
	for _, s := range sums {
		if s != sums["db1"] {
			return errors.New("the nodes differ")
		}
	}
	if lost+int(load.readErrs.Load()+load.stale.Load()) > 0 {
		return errors.New("the books do not balance")
	}
	return nil
}

func role(n replica.NodeStats) string {
	switch {
	case n.Up == 0:
		return "(down)"
	case n.Primary == 1:
		return "(primary)"
	}
	return "(replica)"
}

// load is a few users who write and read back.
type load struct {
	c                             *replica.Cluster
	wg                            sync.WaitGroup
	quit                          chan struct{}
	once                          sync.Once
	acked, reads, readErrs, stale atomic.Int64
	ids                           sync.Map
}

func newLoad(c *replica.Cluster) *load {
	l := &load{c: c, quit: make(chan struct{})}
	for user := range 4 {
		l.wg.Go(func() { l.user(user) })
	}
	return l
}

func (l *load) stop() {
	l.once.Do(func() { close(l.quit) })
	l.wg.Wait()
}

func (l *load) user(user int) {
	ctx := replica.WithSession(context.Background(), replica.NewSession())
	for i := 0; ; i++ {
		select {
		case <-l.quit:
			return
		default:
		}
		id := user*1_000_000 + i
		for { // an unknown outcome is repeated until it is known; the key makes that safe
			_, err := l.c.DB().ExecContext(ctx,
				`insert into visits (id, who) values (?, ?) on conflict (id) do nothing`, id, "user")
			if err == nil {
				break
			}
		}
		l.acked.Add(1)
		l.ids.Store(id, true)
		for range 5 {
			var n int
			err := l.c.DB().QueryRowContext(ctx, `select count(*) from visits where id = ?`, id).Scan(&n)
			l.reads.Add(1)
			switch {
			case err != nil:
				l.readErrs.Add(1)
			case n == 0:
				l.stale.Add(1)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (l *load) missing(ctx context.Context) (lost int, err error) {
	l.ids.Range(func(id, _ any) bool {
		var n int
		if err = l.c.DB().QueryRowContext(replica.Primary(ctx), `select count(*) from visits where id = ?`,
			id).Scan(&n); err != nil {
			return false
		}
		if n == 0 {
			lost++
		}
		return true
	})
	return lost, err
}
