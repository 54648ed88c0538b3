package schema_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/schema"
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

// One schema for all shards, and a look whether it is one.
func ExampleMigrate() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards, exampleOptions)
	defer c.Close()
	err := schema.Migrate(ctx, c, []schema.Migration{
		{ID: "2026-01 mail", SQL: []string{`alter table users add column mail text`}},
	})
	fmt.Println(err)
	shards[1].DB.Exec(`alter table users add column oops text`)
	drift, _ := schema.Drift(ctx, c)
	for _, d := range drift {
		fmt.Println("table", d.Table, "differs:", len(d.Variants), "variants")
	}
	// Output:
	// <nil>
	// table users differs: 2 variants
}

// Tables that exist already get their slots while the service runs.
func ExampleFillSlots() {
	ctx := context.Background()
	shards, done := exampleShards(1)
	defer done()
	for i := range 10 {
		shards[0].DB.Exec(`create table if not exists orders (id integer primary key)`)
		shards[0].DB.Exec(`insert into orders values (?)`, i)
	}
	o := exampleOptions
	o.Tables = []shard.Table{{Name: "orders", Key: []string{"id"}}}
	c, err := shard.New(ctx, shard.MemoryStore(), shards, o)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	rep, err := schema.FillSlots(ctx, c, schema.FillOptions{})
	fmt.Println(rep.Rows, rep.Misplaced, err)
	// Output:
	// 10 0 <nil>
}
