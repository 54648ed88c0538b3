//go:build unix

package invalidate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/invalidate"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sqlite(t *testing.T, path string) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+path+
		"?_txlock=immediate&_pragma=journal_mode(wal)&_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// A process that is killed with kill -9 between its commit and its delete: the old value is served no longer than the
// relay takes.
func TestKilledBetweenCommitAndDelete(t *testing.T) {
	if path := os.Getenv("TIERKIT_INVALIDATE_CHILD"); path != "" {
		db := sqlite(t, path)
		box, err := invalidate.New(db, invalidate.Options{Regions: []invalidate.Region{{Name: "eu"}}})
		require.NoError(t, err)
		tx, err := db.Begin()
		require.NoError(t, err)
		_, err = tx.Exec(`update users set name = 'new' where id = 42`)
		require.NoError(t, err)
		require.NoError(t, box.Add(t.Context(), tx, "user:42"))
		require.NoError(t, tx.Commit())
		syscall.Kill(os.Getpid(), syscall.SIGKILL) // before it could delete anything
		select {}
	}
	path := filepath.Join(t.TempDir(), "data.db")
	db := sqlite(t, path)
	_, err := db.Exec(`create table users (id integer primary key, name text); insert into users values (42, 'old')`)
	require.NoError(t, err)
	c, err := cache.New(cache.Options[string, string]{})
	require.NoError(t, err)
	defer c.Close()
	box, err := invalidate.New(db, invalidate.Options{Interval: 20 * time.Millisecond,
		Regions: []invalidate.Region{{Name: "eu", Drop: c.Drop}}})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	read := func() string {
		v, err := c.Load(t.Context(), "user:42", func(ctx context.Context, _ string) (v string, err error) {
			return v, db.QueryRowContext(ctx, `select name from users where id = 42`).Scan(&v)
		})
		require.NoError(t, err)
		return v
	}
	require.Equal(t, "old", read())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); box.Run(ctx, func(err error) { t.Log(err) }) }()
	defer func() { cancel(); <-done }()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledBetweenCommitAndDelete$")
	cmd.Env = append(os.Environ(), "TIERKIT_INVALIDATE_CHILD="+path)
	out, err := cmd.CombinedOutput()
	require.Equal(t, "signal: killed", fmt.Sprint(err), "%s", out)
	require.Eventually(t, func() bool { return read() == "new" }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { // the row goes after the key
		n, oldest, err := box.Backlog(t.Context(), "eu")
		require.NoError(t, err)
		return n == 0 && oldest == 0
	}, 30*time.Second, time.Millisecond)
}

// On every database: a rolled back change invalidates nothing, a committed one every region that can be reached, and
// the others when they are back.
func TestRegions(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*sql.DB, invalidate.Dialect){
		"sqlite": func(t *testing.T) (*sql.DB, invalidate.Dialect) {
			return sqlite(t, filepath.Join(t.TempDir(), "data.db")), invalidate.SQLite
		},
		"postgres": func(t *testing.T) (*sql.DB, invalidate.Dialect) {
			db, err := sql.Open("pgx", testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DSN())
			require.NoError(t, err)
			t.Cleanup(func() { db.Close() })
			return db, invalidate.PostgreSQL
		},
		"mariadb": func(t *testing.T) (*sql.DB, invalidate.Dialect) {
			db, err := sql.Open("mysql", testserver.MariaDB(t, testserver.MySQLOptions{}).Primary().DSN())
			require.NoError(t, err)
			t.Cleanup(func() { db.Close() })
			return db, invalidate.MySQL
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, dialect := open(t)
			var mu sync.Mutex
			dropped := map[string][]string{}
			var down atomic.Bool
			down.Store(true)
			region := func(name string) invalidate.Region {
				return invalidate.Region{Name: name, Drop: func(_ context.Context, key string) error {
					if name == "us" && down.Load() {
						return errors.New("no route to host")
					}
					mu.Lock()
					defer mu.Unlock()
					dropped[name] = append(dropped[name], key)
					return nil
				}}
			}
			box, err := invalidate.New(db, invalidate.Options{Dialect: dialect,
				Regions: []invalidate.Region{region("eu"), region("us")}})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))
			require.NoError(t, box.Migrate(t.Context()))
			add := func(commit bool, keys ...string) {
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				require.NoError(t, box.Add(t.Context(), tx, keys...))
				if commit {
					require.NoError(t, tx.Commit())
				} else {
					require.NoError(t, tx.Rollback())
				}
			}
			add(false, "never")
			add(true, "a", "b")
			add(true, "a")
			n, err := box.Relay(t.Context())
			require.ErrorContains(t, err, "no route")
			require.ErrorContains(t, err, `us: key`)
			require.Equal(t, 3, n)
			require.ElementsMatch(t, []string{"a", "b"}, dropped["eu"], "a key is deleted once")
			require.Empty(t, dropped["us"])
			waiting, oldest, err := box.Backlog(t.Context(), "us")
			require.NoError(t, err)
			require.Equal(t, 3, waiting)
			require.Greater(t, oldest, time.Duration(0))
			down.Store(false)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); box.Run(ctx, nil) }()
			add(true, "c")
			box.Wake()
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(dropped["us"]) == 3 && len(dropped["eu"]) == 3
			}, 20*time.Second, time.Millisecond)
			cancel()
			<-done
			require.ElementsMatch(t, []string{"a", "b", "c"}, dropped["us"], "nothing is lost meanwhile")
		})
	}
}

func TestOptions(t *testing.T) {
	db := sqlite(t, filepath.Join(t.TempDir(), "data.db"))
	drop := func(context.Context, string) error { return nil }
	for want, o := range map[string]invalidate.Options{
		"Regions":        {},
		"twice":          {Regions: []invalidate.Region{{Name: "a", Drop: drop}, {Name: "a", Drop: drop}}},
		"region":         {Regions: []invalidate.Region{{Name: "a; drop", Drop: drop}}},
		"Options.Batch":  {Regions: []invalidate.Region{{Name: "a", Drop: drop}}, Batch: -1},
		"Options.Interv": {Regions: []invalidate.Region{{Name: "a", Drop: drop}}, Interval: -1},
	} {
		_, err := invalidate.New(db, o)
		require.ErrorContains(t, err, want)
	}
	box, err := invalidate.New(db, invalidate.Options{Regions: []invalidate.Region{{Name: "a"}}})
	require.NoError(t, err)
	_, _, err = box.Backlog(t.Context(), "b")
	require.ErrorContains(t, err, `"b"`)
}

// Keys that cannot be deleted, such as those of one cache server that is out, do not keep the others, however many they
// are.
func TestFailingKeysDoNotHoldTheOthersUp(t *testing.T) {
	db := sqlite(t, filepath.Join(t.TempDir(), "data.db"))
	var mu sync.Mutex
	var out atomic.Bool
	dropped := map[string]int{}
	box, err := invalidate.New(db, invalidate.Options{Batch: 10,
		Regions: []invalidate.Region{{Name: "eu", Drop: func(_ context.Context, key string) error {
			if out.Load() && key[0] == 'a' {
				return cache.ErrServerOut
			}
			mu.Lock()
			defer mu.Unlock()
			dropped[key]++
			return nil
		}}}})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	out.Store(true)
	for i := range 25 {
		require.NoError(t, box.Add(t.Context(), db, fmt.Sprint("a", i)))
	}
	for i := range 25 {
		require.NoError(t, box.Add(t.Context(), db, fmt.Sprint("b", i), fmt.Sprint("a", i)))
	}
	n, err := box.Relay(t.Context())
	require.ErrorIs(t, err, cache.ErrServerOut)
	require.Equal(t, 25, n)
	require.Len(t, dropped, 25)
	out.Store(false)
	n, err = box.Relay(t.Context())
	require.NoError(t, err)
	require.Equal(t, 50, n)
	require.Len(t, dropped, 50)
}

// While a cache server keeps a relay waiting, the application's transactions go on.
func TestRelayDoesNotHoldWritersUp(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*sql.DB, invalidate.Dialect, string){
		"sqlite": func(t *testing.T) (*sql.DB, invalidate.Dialect, string) {
			return sqlite(t, filepath.Join(t.TempDir(), "data.db")), invalidate.SQLite, "pragma busy_timeout = 1000"
		},
		"postgres": func(t *testing.T) (*sql.DB, invalidate.Dialect, string) {
			return testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DB(), invalidate.PostgreSQL,
				"set lock_timeout = '1s'"
		},
		"mariadb": func(t *testing.T) (*sql.DB, invalidate.Dialect, string) {
			return testserver.MariaDB(t, testserver.MySQLOptions{}).Primary().DB(), invalidate.MySQL,
				"set innodb_lock_wait_timeout = 1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, d, patience := open(t)
			at, gate := make(chan struct{}, 10), make(chan struct{})
			box, err := invalidate.New(db, invalidate.Options{Dialect: d,
				Regions: []invalidate.Region{{Name: "eu", Drop: func(context.Context, string) error {
					at <- struct{}{}
					<-gate
					return nil
				}}}})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))
			require.NoError(t, box.Add(t.Context(), db, "k"))
			done := make(chan error, 1)
			go func() { _, err := box.Relay(context.Background()); done <- err }()
			<-at
			conn, err := db.Conn(t.Context())
			require.NoError(t, err)
			_, err = conn.ExecContext(t.Context(), patience)
			require.NoError(t, err)
			require.NoError(t, box.Add(t.Context(), conn, "another"))
			require.NoError(t, conn.Close())
			close(gate)
			require.NoError(t, <-done)
		})
	}
}
