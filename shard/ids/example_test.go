package ids_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/ids"
)

func ExampleNew() {
	g, _ := ids.New(ids.Options{})
	id, _ := g.Next(77)
	next, _ := g.Next(77)
	fmt.Println(ids.SlotOf(id), next > id)
	// Output:
	// 77 true
}

func ExampleLease() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ids-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ids.db"))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	g, err := ids.Lease(ctx, db, shard.SQLite(), ids.LeaseOptions{})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	id, _ := g.Next(12)
	fmt.Println(g.Node(), ids.SlotOf(id))
	// Output:
	// 0 12
}
