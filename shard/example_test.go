package shard_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
)

func exampleShards(n int) ([]shard.Shard, func()) {
	dir, err := os.MkdirTemp("", "shard-example-")
	if err != nil {
		panic(err)
	}
	var out []shard.Shard
	for i := range n {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, fmt.Sprintf("%d.db", i))+
			"?_txlock=immediate&_pragma=busy_timeout(10000)")
		if err != nil {
			panic(err)
		}
		if _, err := db.Exec(`create table users (id text primary key, slot integer not null);
			create index by_slot on users (slot, id)`); err != nil {
			panic(err)
		}
		out = append(out, shard.Shard{ID: shard.ID(fmt.Sprintf("db%d", i)), DB: db})
	}
	return out, func() {
		for _, s := range out {
			_ = s.DB.Close()
		}
		_ = os.RemoveAll(dir)
	}
}

var exampleOptions = shard.Options{Slots: 1024, Refresh: 20 * time.Millisecond, MapTTL: 100 * time.Millisecond,
	Dialect: shard.SQLite(), Tables: []shard.Table{{Name: "users", Key: []string{"id"}}}}

func addUsers(ctx context.Context, c *shard.Cluster, names ...string) {
	for _, n := range names {
		err := c.Tx(ctx, shard.String(n), nil, func(tx *shard.Tx) error {
			_, err := tx.ExecContext(ctx, `insert into users (id, slot) values (?, ?)`, n, int(tx.Slot()))
			return err
		})
		if err != nil {
			panic(err)
		}
	}
}

func ExampleCluster_Tx() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	c, err := shard.New(ctx, shard.MemoryStore(), shards, exampleOptions)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	addUsers(ctx, c, "alice", "bob", "carol")
	err = c.Tx(ctx, shard.String("alice"), nil, func(tx *shard.Tx) error {
		var slot int
		err := tx.QueryRowContext(ctx, `select slot from users where id = ?`, "alice").Scan(&slot)
		fmt.Println(shard.Slot(slot) == c.Slot(shard.String("alice")))
		return err
	})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

func ExampleScatter() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards, exampleOptions)
	defer c.Close()
	addUsers(ctx, c, "dave", "alice", "carol", "bob")
	type user struct {
		id   string
		slot shard.Slot
	}
	res, err := shard.Scatter(ctx, c, shard.Query[user]{
		SQL:    `select id, slot from users order by id`,
		Scan:   func(r *sql.Rows) (u user, err error) { return u, r.Scan(&u.id, &u.slot) },
		SlotOf: func(u user) shard.Slot { return u.slot },
		Less:   func(a, b user) bool { return a.id < b.id },
		Limit:  3,
	})
	for _, u := range res.Rows {
		fmt.Println(u.id)
	}
	fmt.Println(err)
	// Output:
	// alice
	// bob
	// carol
	// <nil>
}

// Resharding: plan, move, wait. Clients go on reading and writing meanwhile.
func ExampleCluster_Move() {
	ctx := context.Background()
	shards, done := exampleShards(3)
	defer done()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards[:2], exampleOptions)
	defer c.Close()
	addUsers(ctx, c, "alice", "bob", "carol", "dave")
	c.AddShard(shards[2])
	plan, err := c.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"db0": 1, "db1": 1, "db2": 1}})
	if err != nil {
		panic(err)
	}
	job, err := c.Move(ctx, plan, shard.MoveOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(plan.Moves), job.Wait(ctx), c.Map().Counts()["db2"])
	// Output:
	// 341 <nil> 341
}

// A move that can be taken back until somebody is sure.
func ExampleJob_Rollback() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards, exampleOptions)
	defer c.Close()
	addUsers(ctx, c, "alice", "bob", "carol", "dave")
	plan, _ := c.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"db1": 1}})
	job, err := c.Move(ctx, plan, shard.MoveOptions{Reversible: true})
	if err != nil {
		panic(err)
	}
	fmt.Println(job.WaitHold(ctx), c.Map().Counts())
	addUsers(ctx, c, "eve") // on the new shard, and on its way back
	job, err = job.Rollback(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println(job.Wait(ctx), c.Map().Counts())
	n, _ := c.Aggregate(ctx, shard.AggregateQuery{Table: "users"})
	fmt.Println(n.Count, "users")
	// Output:
	// <nil> map[db1:1024]
	// <nil> map[db0:512 db1:512]
	// 5 users
}

// Products by category.
func ExampleCluster_Assign() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	o := exampleOptions
	o.Placement = shard.Directory()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards, o)
	defer c.Close()
	c.Assign(ctx, shard.String("books"), "db1")
	fmt.Println(c.Map().Owner(c.Slot(shard.String("books"))))
	err := c.Do(ctx, shard.String("games"), func(context.Context, *sql.DB, shard.Slot) error { return nil })
	fmt.Println(err)
	// Output:
	// db1
	// shard: key is not assigned to a shard: games
}

// Orders by month: where are those of the last two?
func ExampleMap_RangeSlots() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	o := exampleOptions
	o.Placement = shard.Range(30) // days
	c, _ := shard.New(ctx, shard.MemoryStore(), shards, o)
	defer c.Close()
	fmt.Println(c.Map().RangeSlots(600, 659))
	// Output:
	// [20 21]
}

// A counter that one database cannot bear.
func ExampleParts() {
	fmt.Println(shard.Parts(shard.String("likes:star"), 3))
	// Output:
	// [likes:star#0 likes:star#1 likes:star#2]
}
