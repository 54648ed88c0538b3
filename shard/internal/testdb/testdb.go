// Package testdb makes databases for the tests of package shard and its parts. PostgreSQL and MariaDB run once for each
// test binary; every test has databases of its own in them.
package testdb

import (
	"database/sql"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/go-sql-driver/mysql" // driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/dialects"
)

// Kind opens databases of one kind.
type Kind struct {
	sqldb.Database
	// DDL makes the tables t (id, slot, v, at, note) and u (a, b, slot, x).
	DDL    []string
	open   func(name string) *sql.DB
	dsn    func(name string) string
	prefix string
}

var number atomic.Int64

// newKind gives the databases of one test a prefix.
func newKind(t testing.TB, name string, ddl []string, open func(t testing.TB, name string) *sql.DB) *Kind {
	prefix := fmt.Sprintf("d%d_", number.Add(1))
	return &Kind{Database: dialects.ByName(name), DDL: ddl, prefix: prefix, open: func(name string) *sql.DB {
		db := open(t, prefix+name)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}}
}

// OwnPostgres is PostgreSQL on servers of the test's own. open makes a database in one of them.
func OwnPostgres(open func(name string) *sql.DB) *Kind {
	return &Kind{Database: dialects.ByName("postgres"), DDL: postgresDDL, open: open}
}

// DSN is the address of a database that Open made in a server.
func (k *Kind) DSN(name string) string { return k.dsn(k.prefix + name) }

// Reopen is another handle of a database that Open made in a server.
func (k *Kind) Reopen(t testing.TB, name string) *sql.DB {
	driver := "pgx"
	if k.Name() == "mariadb" {
		driver = "mysql"
	}
	db, err := sql.Open(driver, k.DSN(name))
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return pool(db)
}

// Open makes an empty database.
func (k *Kind) Open(name string) *sql.DB { return k.open(name) }

// Fresh is a kind like k with databases of its own, which end with t.
func (k *Kind) Fresh(t testing.TB) *Kind { return All[k.Name()](t) }

// OpenWithTables makes a database with the tables of DDL.
func (k *Kind) OpenWithTables(t testing.TB, name string) *sql.DB {
	db := k.open(name)
	for _, q := range k.DDL {
		_, err := db.Exec(q)
		require.NoError(t, err)
	}
	return db
}

// SQLite makes files in a directory of the test.
func SQLite(t testing.TB) *Kind {
	dir := t.TempDir()
	return newKind(t, "sqlite", []string{
		`create table t (id integer primary key, slot integer not null, v integer not null, at timestamp, note text)`,
		`create index t_slot on t (slot, id)`,
		`create table u (a text, b integer, slot integer not null, x blob, primary key (a, b))`,
		`create index u_slot on u (slot, a, b)`,
	}, func(t testing.TB, name string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, name)+
			"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(off)")
		require.NoError(t, err)
		db.SetMaxOpenConns(1) // SQLite has one writer; waiting in the pool is fairer than its busy timeout
		return db
	})
}

var postgresDDL = []string{
	`create table t (id bigint primary key, slot smallint not null, v bigint not null, at timestamptz, note text)`,
	`create index on t (slot, id)`,
	`create table u (a text, b int, slot int not null, x bytea, primary key (a, b))`,
	`create index on u (slot, a, b)`,
}

// Postgres makes databases in the server of the test binary. It skips in short tests.
func Postgres(t testing.TB) *Kind {
	skipInShort(t)
	s := postgres.get(t)
	dsn := func(name string) string {
		return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.Primary().Addr(), name)
	}
	k := newKind(t, "postgres", postgresDDL, func(t testing.TB, name string) *sql.DB {
		_, err := s.Primary().DB().Exec("create database " + name)
		require.NoError(t, err)
		db, err := sql.Open("pgx", dsn(name))
		require.NoError(t, err)
		return pool(db)
	})
	k.dsn = dsn
	return k
}

// MariaDB makes databases in the server of the test binary. It skips in short tests.
func MariaDB(t testing.TB) *Kind {
	skipInShort(t)
	s := mariadb.get(t)
	dsn := func(name string) string {
		return strings.Replace(s.Primary().AdminDSN(), "/test?", "/"+name+"?", 1)
	}
	k := newKind(t, "mariadb", []string{
		`create table t (id bigint primary key, slot smallint not null, v bigint not null, at datetime(6), note text,
			key (slot, id))`,
		`create table u (a varchar(50), b int, slot int not null, x blob, primary key (a, b), key (slot, a, b))`,
	}, func(t testing.TB, name string) *sql.DB {
		_, err := s.Primary().DB().Exec("create database " + name)
		require.NoError(t, err)
		db, err := sql.Open("mysql", dsn(name))
		require.NoError(t, err)
		return pool(db)
	})
	k.dsn = dsn
	return k
}

func pool(db *sql.DB) *sql.DB {
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	return db
}

func skipInShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a server")
	}
}

// On runs f as subtests, in parallel with each other and with other tests, once for each kind that open has.
func On(t *testing.T, open map[string]func(testing.TB) *Kind, f func(t *testing.T, k *Kind)) {
	t.Parallel()
	for name, o := range open {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, o(t))
		})
	}
}

// Two and All are the kinds that tests run on: MariaDB where the behavior depends on the database.
var (
	Two = map[string]func(testing.TB) *Kind{"sqlite": SQLite, "postgres": Postgres}
	All = map[string]func(testing.TB) *Kind{"sqlite": SQLite, "postgres": Postgres, "mariadb": MariaDB}
)

// server is started by the first test that needs it and ends with the test binary.
type server[T any] struct {
	start func(t testing.TB) T
	once  sync.Once
	made  T
}

var (
	postgres = server[*testserver.PostgresCluster]{start: func(t testing.TB) *testserver.PostgresCluster {
		return testserver.Postgres(t, testserver.PostgresOptions{Config: map[string]string{
			"max_prepared_transactions": "5", "max_connections": "600"}})
	}}
	mariadb = server[*testserver.MySQLCluster]{start: func(t testing.TB) *testserver.MySQLCluster {
		return testserver.MariaDB(t, testserver.MySQLOptions{Args: []string{"--max-connections=600"}})
	}}

	mu       sync.Mutex // guards cleanups
	cleanups []func()
)

func (s *server[T]) get(t testing.TB) T {
	s.once.Do(func() { s.made = s.start(outlive{t}) })
	return s.made
}

// outlive keeps what a test would clean up until the end of the test binary.
type outlive struct{ testing.TB }

func (outlive) Cleanup(f func()) {
	mu.Lock()
	defer mu.Unlock()
	cleanups = append(cleanups, f)
}

// Main is for TestMain: it runs the tests, ends the servers and looks for goroutines that were left.
//
// Much of what the tests do is waiting: for leases, locks and servers. So more of them run at the same time than there
// are processors, unless -parallel says otherwise.
func Main(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	goleak.VerifyTestMain(binary{m})
}

type binary struct{ m *testing.M }

func (b binary) Run() int {
	code := b.m.Run()
	mu.Lock()
	defer mu.Unlock()
	for _, f := range cleanups {
		f()
	}
	return code
}
