package replica_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/replica"
)

// sqliteFile opens connections to one file: for the examples the replica and the primary share it.
type sqliteFile string

func (f sqliteFile) Driver() driver.Driver {
	db, _ := sql.Open("sqlite", "")
	defer db.Close()
	return db.Driver()
}

func (f sqliteFile) Connect(context.Context) (driver.Conn, error) {
	// one file for both: they wait for each other
	return f.Driver().Open("file:" + string(f) + "?_pragma=busy_timeout(5000)")
}

func exampleCluster(o replica.Options) (*replica.Cluster, func()) {
	dir, err := os.MkdirTemp("", "replica-example-")
	if err != nil {
		panic(err)
	}
	file := sqliteFile(filepath.Join(dir, "data.db"))
	c, err := replica.New(replica.Plain(replica.PlainHooks{}),
		[]replica.Node{{Name: "primary", Connector: file}, {Name: "replica", Connector: file}}, o)
	if err != nil {
		panic(err)
	}
	return c, func() { _ = c.Close(); _ = os.RemoveAll(dir) }
}

// The cluster is a *sql.DB like any other.
func ExampleNew() {
	route := func(_ context.Context, r replica.Route) { fmt.Println(r.Class, "->", r.Node) }
	c, done := exampleCluster(replica.Options{Hooks: &replica.Hooks{Routed: route}})
	defer done()
	db := c.DB()
	db.Exec(`create table t (v int)`)
	db.Exec(`insert into t values (?)`, 42)
	var v int
	db.QueryRow(`select v from t`).Scan(&v)
	fmt.Println(v)
	// Output:
	// write -> primary
	// write -> primary
	// read -> replica
	// 42
}

func ExampleCluster_Explain() {
	c, done := exampleCluster(replica.Options{})
	defer done()
	for _, q := range []string{`select 1 -- delete`, `with x as (delete from t returning *) select * from x`,
		`select * from t for update`} {
		x := c.Explain(q)
		fmt.Printf("%s %q\n", x.Class, x.Reason)
	}
	// Output:
	// read ""
	// write "contains delete"
	// write "row lock"
}

// Overrides go through the context, never through comments in SQL.
func ExamplePrimary() {
	c, done := exampleCluster(replica.Options{Hooks: &replica.Hooks{Routed: func(_ context.Context, r replica.Route) {
		fmt.Println(r.Node, r.Reason)
	}}})
	defer done()
	var v int
	c.DB().QueryRowContext(replica.Primary(context.Background()), `select 1`).Scan(&v)
	// Output:
	// primary asked for by the context
}

// A session that wrote does not read stale data, here or on another server that gets its token.
func ExampleTokens() {
	tokens, err := replica.NewTokens() // give all servers the same keys
	if err != nil {
		panic(err)
	}
	c, done := exampleCluster(replica.Options{})
	defer done()
	s := replica.NewSession()
	ctx := replica.WithSession(context.Background(), s)
	c.DB().ExecContext(ctx, `create table t (v int)`)
	token := tokens.Encode(s) // into a cookie: see Tokens.Middleware
	again, err := tokens.Decode(token)
	fmt.Println(s.Wrote(), again != nil, err)
	_, err = tokens.Decode(token + "x")
	fmt.Println(err != nil)
	// Output:
	// true true <nil>
	// true
}
