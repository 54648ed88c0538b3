package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/sessiontest"
	"github.com/tierkit/tierkit/session/sqlstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sqlite(t *testing.T) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "s.db")+
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t *testing.T, db *sql.DB, o sqlstore.Options) *sqlstore.Store {
	s, err := sqlstore.New(db, o)
	require.NoError(t, err)
	require.NoError(t, s.Migrate(t.Context()))
	require.NoError(t, s.Migrate(t.Context()), "again")
	return s
}

func TestSQLite(t *testing.T) {
	s := open(t, sqlite(t), sqlstore.Options{})
	sessiontest.Run(t, func(t *testing.T) session.Store { return s })
}

func TestCleanup(t *testing.T) {
	s := open(t, sqlite(t), sqlstore.Options{Table: "others"})
	at := time.Now()
	for range 5 {
		require.NoError(t, s.Create(context.Background(), sessiontest.Key(),
			session.Record{Created: at, Seen: at, Expires: at.Add(time.Minute)}))
	}
	n, err := s.Cleanup(t.Context(), at, 10)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = s.Cleanup(t.Context(), at.Add(time.Hour), 3)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	n, err = s.Cleanup(t.Context(), at.Add(time.Hour), 3)
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestOptionsNameTheField(t *testing.T) {
	_, err := sqlstore.New(sqlite(t), sqlstore.Options{Table: "a; drop table b"})
	require.ErrorContains(t, err, "Table")
	_, err = sqlstore.New(sqlite(t), sqlstore.Options{Dialect: 9})
	require.ErrorContains(t, err, "Dialect")
}

func TestPostgreSQL(t *testing.T) {
	s := open(t, testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DB(),
		sqlstore.Options{Dialect: sqlstore.PostgreSQL})
	sessiontest.Run(t, func(t *testing.T) session.Store { return s })
}

// A session that is used while Cleanup waits for its row is not what Cleanup was looking for any more.
func TestCleanupWaitsForAUse(t *testing.T) {
	db := testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DB()
	s := open(t, db, sqlstore.Options{Dialect: sqlstore.PostgreSQL})
	at := time.Now()
	k := sessiontest.Key()
	require.NoError(t, s.Create(t.Context(), k,
		session.Record{Created: at, Seen: at, Expires: at.Add(time.Hour), Idle: time.Minute}))
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("UPDATE sessions SET seen = $1, deadline = $2", at.Add(50*time.Second).UnixMilli(),
		at.Add(110*time.Second).UnixMilli())
	require.NoError(t, err)
	cleaned := make(chan int, 1)
	go func() {
		n, err := s.Cleanup(context.Background(), at.Add(61*time.Second), 10)
		if err != nil {
			t.Error(err)
		}
		cleaned <- n
	}()
	require.Eventually(t, func() bool {
		var waiting int
		return db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").Scan(
			&waiting) == nil && waiting > 0
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit())
	require.Zero(t, <-cleaned)
	_, err = s.Load(t.Context(), k, at.Add(61*time.Second))
	require.NoError(t, err)
}

func TestMariaDB(t *testing.T) {
	s := open(t, testserver.MariaDB(t, testserver.MySQLOptions{}).Primary().DB(),
		sqlstore.Options{Dialect: sqlstore.MySQL})
	sessiontest.Run(t, func(t *testing.T) session.Store { return s })
}

func TestRunCleanup(t *testing.T) {
	db := sqlite(t)
	s := open(t, db, sqlstore.Options{})
	past := time.Now().Add(-time.Hour)
	for range 5 {
		require.NoError(t, s.Create(t.Context(), sessiontest.Key(),
			session.Record{Created: past, Seen: past, Expires: past.Add(time.Minute)}))
	}
	live := sessiontest.Key()
	require.NoError(t, s.Create(t.Context(), live,
		session.Record{Created: past, Seen: past, Expires: time.Now().Add(time.Hour)}))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.RunCleanup(ctx, time.Millisecond, func(err error) { t.Error(err) }) }()
	require.Eventually(t, func() bool {
		var n int
		return db.QueryRow("SELECT COUNT(*) FROM sessions").Scan(&n) == nil && n == 1
	}, 30*time.Second, time.Millisecond)
	stop()
	require.ErrorIs(t, <-done, context.Canceled)
	_, err := s.Load(t.Context(), live, time.Now())
	require.NoError(t, err)
}

// A deadlock that the database resolved at our cost is not the request's failure; everything else is, at once.
func TestUndoneStatementsAreRepeated(t *testing.T) {
	deadlock, other := errors.New("sqlstore: touch: Error 1213 (40001): Deadlock found"),
		errors.New("Error 1062 (23000): Duplicate entry")
	tries := 0
	require.NoError(t, sqlstore.Again(t.Context(), func() error {
		if tries++; tries < 4 {
			return deadlock
		}
		return nil
	}))
	require.Equal(t, 4, tries)
	tries = 0
	require.Equal(t, deadlock, sqlstore.Again(t.Context(), func() error { tries++; return deadlock }))
	require.Equal(t, 9, tries)
	tries = 0
	require.Equal(t, other, sqlstore.Again(t.Context(), func() error { tries++; return other }))
	require.Equal(t, 1, tries)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, deadlock, sqlstore.Again(ctx, func() error { return deadlock }))
	for state, want := range map[string]bool{"40001": true, "40P01": true, "23505": false} {
		tries = 0
		require.Error(t, sqlstore.Again(t.Context(), func() error { tries++; return stateError(state) }))
		require.Equal(t, want, tries > 1)
	}
}

type stateError string

func (e stateError) Error() string    { return "SQLSTATE " + string(e) }
func (e stateError) SQLState() string { return string(e) }
