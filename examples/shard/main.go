// Command shard shows package shard at work: SQLite databases that hold accounts, resharded from 2 to 3 while clients
// write. It ends with the books: every acknowledged write is stored exactly once, on the shard that owns it.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite"

	"golang.org/x/term"

	"github.com/tierkit/tierkit/shard"
)

func main() {
	accounts := flag.Int("accounts", 6000, "number of accounts")
	rate := flag.Int("rate", 3000, "rows copied per second; 0 is as fast as possible")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"shard: reshards from 2 to 3 databases while clients write.\n\nUsage: go run ./examples/shard [-accounts 6000] [-rate 3000]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || *accounts < 10 || *rate < 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*accounts, *rate); err != nil {
		fmt.Fprintln(os.Stderr, "shard:", err)
		os.Exit(1)
	}
}

func run(accounts, rate int) error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tierkit-shard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	open := func(name string) (shard.Shard, error) {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, name+".db")+
			"?_txlock=immediate&_pragma=journal_mode(wal)&_pragma=busy_timeout(10000)&_pragma=synchronous(normal)")
		if err != nil {
			return shard.Shard{}, err
		}
		for _, q := range []string{`create table accounts (id text primary key, slot integer not null, balance integer not null)`, `create index by_slot on accounts (slot, id)`} {
			if _, err := db.Exec(q); err != nil {
				return shard.Shard{}, err
			}
		}
		return shard.Shard{ID: shard.ID(name), DB: db}, nil
	}
	var shards []shard.Shard
	for _, name := range []string{"db1", "db2", "db3"} {
		s, err := open(name)
		if err != nil {
			return err
		}
		defer s.DB.Close()
		shards = append(shards, s)
	}
	cluster, err := shard.New(ctx, shard.MemoryStore(), shards[:2],
		shard.Options{Dialect: shard.SQLite(), Tables: []shard.Table{{Name: "accounts", Key: []string{"id"}}}})
	if err != nil {
		return err
	}
	defer cluster.Close()

	fmt.Printf("1. %d accounts on two databases\n", accounts)
	books := make([]int64, accounts)
	name := func(i int) string { return fmt.Sprintf("account-%d", i) }
	var load sync.WaitGroup
	var firstErr atomic.Pointer[error]
	for g := range 8 {
		load.Go(func() {
			for i := g; i < accounts; i += 8 {
				err := cluster.Tx(ctx, shard.String(name(i)), nil, func(tx *shard.Tx) error {
					_, err := tx.ExecContext(ctx, `insert into accounts (id, slot, balance) values (?, ?, 0)`, name(i),
						int(tx.Slot()))
					return err
				})
				if err != nil {
					firstErr.Store(&err)
					return
				}
			}
		})
	}
	load.Wait()
	if e := firstErr.Load(); e != nil {
		return *e
	}
	show(cluster)

	fmt.Println("2. db3 joins; clients go on writing (account-0 is a celebrity)")
	if err := cluster.AddShard(shards[2]); err != nil {
		return err
	}
	plan, err := cluster.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"db1": 1, "db2": 1, "db3": 1}})
	if err != nil {
		return err
	}
	fmt.Printf("   the plan: %d of %d slots move, %d rows; the minimum is a third\n", len(plan.Moves),
		cluster.Map().Slots(), plan.Rows)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var writes, slowest atomic.Int64
	var mu sync.Mutex
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rand.IntN(accounts)
				if rand.IntN(5) == 0 {
					i = 0
				}
				began := time.Now()
				err := cluster.Do(ctx, shard.String(name(i)),
					func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
						_, err := db.ExecContext(ctx, `update accounts set balance = balance + 1 where id = ?`, name(i))
						return err
					})
				if err != nil {
					firstErr.Store(&err)
					return
				}
				mu.Lock()
				books[i]++
				mu.Unlock()
				writes.Add(1)
				for d := int64(time.Since(began)); ; {
					if old := slowest.Load(); d <= old || slowest.CompareAndSwap(old, d) {
						break
					}
				}
				time.Sleep(500 * time.Microsecond)
			}
		})
	}
	bar := newBar()
	job, err := cluster.Move(ctx, plan, shard.MoveOptions{RowsPerSecond: rate, Progress: bar.draw})
	if err != nil {
		return err
	}
	err = job.Wait(ctx)
	bar.end()
	close(stop)
	clients.Wait()
	if err != nil {
		return err
	}
	if e := firstErr.Load(); e != nil {
		return *e
	}
	st := job.Status()
	var worst time.Duration
	for _, p := range st.WritePauses {
		worst = max(worst, p)
	}
	fmt.Printf("   moved in %v; longest pause of writes at a hand-over %v; slowest of %d writes %v; %d were refused by a fence and repeated\n",
		st.Elapsed.Round(time.Millisecond), worst.Round(10*time.Microsecond), writes.Load(),
		time.Duration(slowest.Load()).Round(time.Millisecond), cluster.Stats().Refused)
	show(cluster)

	fmt.Println("3. The hottest keys")
	for _, h := range cluster.HotKeys(2) {
		fmt.Printf("   %-14s %4.1f %% of %s\n", h.Key, 100*h.Share, h.Shard)
	}

	type account struct {
		id      string
		slot    shard.Slot
		balance int64
	}
	res, err := shard.Scatter(ctx, cluster, shard.Query[account]{
		SQL:  `select id, slot, balance from accounts order by balance desc`,
		Scan: func(r *sql.Rows) (a account, err error) { return a, r.Scan(&a.id, &a.slot, &a.balance) },
		SlotOf: func(a account) shard.Slot {
			return a.slot
		}, Less: func(a, b account) bool { return a.balance > b.balance },
	})
	if err != nil {
		return err
	}
	var stored int64
	wrong := 0
	for _, a := range res.Rows {
		var i int
		if _, err := fmt.Sscanf(a.id, "account-%d", &i); err != nil {
			return err
		}
		stored += a.balance
		if books[i] != a.balance {
			wrong++
		}
	}
	fmt.Printf("4. The books: %d accounts, %d increments acknowledged, %d stored, %d accounts wrong; the richest is %s\n", len(res.Rows), writes.Load(), stored, wrong, res.Rows[0].id)
	if len(res.Rows) != accounts || stored != writes.Load() || wrong > 0 {
		return errors.New("the books do not balance")
	}
	return nil
}

func show(c *shard.Cluster) {
	counts := c.Map().Counts()
	for _, id := range c.Map().Shards() {
		var rows int
		_ = c.DB(id).QueryRow(`select count(*) from accounts`).Scan(&rows)
		fmt.Printf("   %s: %5d slots, %5d rows %s\n", id, counts[id], rows, strings.Repeat("=", counts[id]/400))
	}
}

// bar draws the progress on a terminal, and a few lines elsewhere.
type bar struct {
	tty  bool
	last time.Time
}

func newBar() *bar { return &bar{tty: term.IsTerminal(int(os.Stdout.Fd()))} }

func (b *bar) draw(p shard.Progress) {
	every := 800 * time.Millisecond
	if b.tty {
		every = 50 * time.Millisecond
	}
	if time.Since(b.last) < every {
		return
	}
	b.last = time.Now()
	share := 0.0
	if p.RowsTotal > 0 {
		share = min(float64(p.RowsCopied)/float64(p.RowsTotal), 1)
	}
	line := fmt.Sprintf("   [%-30s] %3.0f %%  group %d of %d  %-8s %d rows  about %v left",
		strings.Repeat("#", int(30*share)), 100*share, p.Group, p.Groups, p.Phase, p.RowsCopied,
		p.ETA.Round(100*time.Millisecond))
	if b.tty {
		fmt.Print("\r\x1b[K" + line)
	} else {
		fmt.Println(line)
	}
}

func (b *bar) end() {
	if b.tty {
		fmt.Print("\r\x1b[K")
	}
}
