// Package replica compares the cost of package replica with plain database/sql (the limit) and with other read/write
// splitters, on a driver that costs nothing, and on PostgreSQL.
package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/tsenart/nap"

	"github.com/tierkit/tierkit/replica"
)

// zero is a driver whose queries return one row at once.
type zero struct{}

func (zero) Open(string) (driver.Conn, error)             { return &zeroConn{}, nil }
func (zero) Connect(context.Context) (driver.Conn, error) { return &zeroConn{}, nil }
func (zero) Driver() driver.Driver                        { return zero{} }

func init() { sql.Register("zero", zero{}) }

type zeroConn struct{}

func (*zeroConn) Prepare(string) (driver.Stmt, error)      { return nil, errors.New("zero: no Prepare") }
func (*zeroConn) Close() error                             { return nil }
func (*zeroConn) Begin() (driver.Tx, error)                { return nil, errors.New("zero: no Begin") }
func (*zeroConn) ResetSession(context.Context) error       { return nil }
func (*zeroConn) IsValid() bool                            { return true }
func (*zeroConn) CheckNamedValue(*driver.NamedValue) error { return nil }
func (*zeroConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return &zeroRows{}, nil
}
func (*zeroConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

type zeroRows struct{ done bool }

var cols = []string{"v"}

func (*zeroRows) Columns() []string { return cols }
func (*zeroRows) Close() error      { return nil }
func (r *zeroRows) Next(d []driver.Value) error {
	if r.done {
		return io.EOF
	}
	r.done = true
	d[0] = int64(1)
	return nil
}

const query = `SELECT id, name, email, created_at FROM users WHERE tenant = $1 AND id = $2 LIMIT 1`

type queryer interface {
	QueryRow(query string, args ...any) *sql.Row
}

func point(b *testing.B, db queryer) {
	b.ReportAllocs()
	var v int64
	for b.Loop() {
		if err := db.QueryRow(query, 1, 2).Scan(&v); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFake is one point read through Query and Scan.
func BenchmarkFake(b *testing.B) {
	b.Run("read/limit", func(b *testing.B) {
		db := sql.OpenDB(zero{})
		defer db.Close()
		point(b, db)
	})
	b.Run("read/nap", func(b *testing.B) {
		db, err := nap.Open("zero", "a;b;c")
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		point(b, db)
	})
	b.Run("read/tierkit", func(b *testing.B) {
		c := cluster(b)
		point(b, c.DB())
	})
	b.Run("read-context/limit", func(b *testing.B) {
		db := sql.OpenDB(zero{})
		defer db.Close()
		withContext(b, db)
	})
	b.Run("read-context/tierkit", func(b *testing.B) {
		c := cluster(b)
		withContext(b, c.DB())
	})
	b.Run("write/limit", func(b *testing.B) {
		db := sql.OpenDB(zero{})
		defer db.Close()
		write(b, db)
	})
	b.Run("write/tierkit", func(b *testing.B) {
		c := cluster(b)
		write(b, c.DB())
	})
}

func withContext(b *testing.B, db *sql.DB) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	var v int64
	for b.Loop() {
		if err := db.QueryRowContext(ctx, query, 1, 2).Scan(&v); err != nil {
			b.Fatal(err)
		}
	}
}

func write(b *testing.B, db *sql.DB) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.Exec(`UPDATE users SET name = $1 WHERE id = $2`, 1, 2); err != nil {
			b.Fatal(err)
		}
	}
}

func cluster(b *testing.B) *replica.Cluster {
	c, err := replica.New(replica.Plain(replica.PlainHooks{}),
		[]replica.Node{{Name: "p", Connector: zero{}}, {Name: "r1", Connector: zero{}},
			{Name: "r2", Connector: zero{}}}, replica.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	if err := c.WaitReady(context.Background()); err != nil {
		b.Fatal(err)
	}
	return c
}

// BenchmarkClass is the lookup of a statement that was seen before.
func BenchmarkClass(b *testing.B) {
	c := cluster(b)
	c.Explain(query)
	b.Run("explain/tierkit", func(b *testing.B) {
		for b.Loop() {
			c.Explain(query)
		}
	})
	b.Run("explain/limit", func(b *testing.B) { // a sync.Map of texts
		var m sync.Map
		m.Store(query, true)
		for b.Loop() {
			m.Load(query)
		}
	})
}
