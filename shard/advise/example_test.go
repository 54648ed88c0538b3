package advise_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/advise"
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

// Which slots should go where, now that a shard has too many rows?
func ExampleSuggest() {
	ctx := context.Background()
	shards, done := exampleShards(2)
	defer done()
	c, _ := shard.New(ctx, shard.MemoryStore(), shards[:1], exampleOptions)
	defer c.Close()
	for i := range 100 {
		addUsers(ctx, c, fmt.Sprint("user", i))
	}
	_, err := advise.Suggest(ctx, c, advise.Limits{Rows: 90})
	fmt.Println(errors.Is(err, advise.ErrNoRoom))
	c.AddShard(shards[1])
	plan, err := advise.Suggest(ctx, c, advise.Limits{Rows: 90})
	fmt.Println(plan.Rows, "rows to", plan.Moves[0].To, err)
	// Output:
	// true
	// 28 rows to db1 <nil>
}
