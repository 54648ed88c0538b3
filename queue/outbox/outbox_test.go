package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t *testing.T, db *sql.DB, d outbox.Dialect) (*outbox.Outbox, *queue.Group) {
	q, err := queue.Open(t.TempDir(), queue.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { q.Close() })
	g, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{})
	require.NoError(t, err)
	b, err := outbox.New(db, q, outbox.Options{Dialect: d, Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, b.Migrate(t.Context()))
	require.NoError(t, b.Migrate(t.Context()))
	return b, g
}

// Transactions overlap and commit in any order, some roll back, two relays run: what was committed arrives, once, and
// nothing else.
func check(t *testing.T, db *sql.DB, d outbox.Dialect) {
	b, g := setup(t, db, d)
	ctx, cancel := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	for range 2 {
		relays.Go(func() { _ = b.Run(ctx, nil) })
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[string]bool{}
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				id := fmt.Sprint(w, "-", i)
				tx, err := db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := b.Enqueue(t.Context(), tx, queue.Message{Topic: "t", ID: id, Body: []byte(id)}); err != nil {
					_ = tx.Rollback()
					continue
				}
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				if i%5 == 0 {
					_ = tx.Rollback()
					continue
				}
				if tx.Commit() == nil {
					mu.Lock()
					want[id] = true
					mu.Unlock()
					b.Wake()
				}
			}
		})
	}
	wg.Wait()
	got := map[string]bool{}
	fctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for len(got) < len(want) {
		ds, err := g.Fetch(fctx, 100)
		require.NoError(t, err, "%d of %d", len(got), len(want))
		for _, x := range ds {
			require.False(t, got[x.ID], x.ID)
			got[x.ID] = true
		}
		require.NoError(t, g.Ack(t.Context(), ds...))
	}
	require.Equal(t, want, got)
	require.Eventually(t, func() bool {
		n, _, err := b.Backlog(t.Context())
		return err == nil && n == 0
	}, 30*time.Second, 10*time.Millisecond)
	cancel()
	relays.Wait()
	l, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.Zero(t, l.Ready)
}

func sqlite(t *testing.T) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "o.db")+
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func TestSQLite(t *testing.T) { check(t, sqlite(t), outbox.SQLite) }

func TestPostgreSQL(t *testing.T) {
	check(t, testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DB(), outbox.PostgreSQL)
}

func TestMariaDB(t *testing.T) {
	check(t, testserver.MariaDB(t, testserver.MySQLOptions{}).Primary().DB(), outbox.MySQL)
}

// A relay that dies after publishing and before deleting repeats the message under its id, and the queue drops the
// repetition.
func TestCrashBetweenPublishAndDelete(t *testing.T) {
	db := sqlite(t)
	b, g := setup(t, db, outbox.SQLite)
	require.NoError(t, b.Enqueue(t.Context(), db, queue.Message{Topic: "t", Body: []byte("x")}))
	var id string
	require.NoError(t, db.QueryRow("SELECT entry_key FROM queue_outbox").Scan(&id))
	_, err := db.Exec("CREATE TRIGGER no_delete BEFORE DELETE ON queue_outbox BEGIN SELECT RAISE(ABORT, 'died'); END")
	require.NoError(t, err)
	_, err = b.Relay(t.Context())
	require.Error(t, err)
	_, err = db.Exec("DROP TRIGGER no_delete")
	require.NoError(t, err)
	n, err := b.Relay(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	ds, err := g.Fetch(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.Equal(t, id, ds[0].ID)
}

// A message that the queue will never take does not keep the others, and is not published again and again with those
// before it.
func TestMessageThatIsNeverTaken(t *testing.T) {
	db := sqlite(t)
	b, g := setup(t, db, outbox.SQLite)
	require.Error(t, b.Enqueue(t.Context(), db, queue.Message{Topic: "t", Priority: 10}))
	require.Error(t, b.Enqueue(t.Context(), db, queue.Message{Topic: "t", TTL: -1}))
	require.Error(t, b.Enqueue(t.Context(), db, queue.Message{Topic: "t", Body: make([]byte, 1<<20)}))
	for i := range 250 {
		m := queue.Message{Topic: "t", Body: fmt.Append(nil, i)}
		if i == 1 || i == 3 {
			m.Kind = string(make([]byte, 200_000)) // as JSON it is six times as large; as a message it fits
		}
		require.NoError(t, b.Enqueue(t.Context(), db, m))
		if i > 4 && i%2 == 1 {
			_, err := db.Exec("UPDATE queue_outbox SET payload = 'x' WHERE id = (SELECT max(id) FROM queue_outbox)")
			require.NoError(t, err)
		}
	}
	for _, want := range []int{127, 0} {
		n, err := b.Relay(t.Context())
		require.ErrorContains(t, err, "row ")
		require.Equal(t, want, n)
	}
	left, _, err := b.Backlog(t.Context())
	require.NoError(t, err)
	require.Equal(t, 123, left)
	l, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.Equal(t, 127, l.Ready)
}

// Two servers relay: what was committed first is published first, although one of them is slow.
func TestRelaysTakeTurns(t *testing.T) {
	db := testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DB()
	e := &gated{gate: make(chan struct{}), at: make(chan struct{}, 1)}
	slow, err := outbox.New(db, queue.New(e), outbox.Options{Dialect: outbox.PostgreSQL})
	require.NoError(t, err)
	require.NoError(t, slow.Migrate(t.Context()))
	fast, err := outbox.New(db, queue.New(&gated{to: e}), outbox.Options{Dialect: outbox.PostgreSQL})
	require.NoError(t, err)
	require.NoError(t, slow.Enqueue(t.Context(), db, queue.Message{Key: "k", Body: []byte("first")}))
	var wg sync.WaitGroup
	wg.Go(func() { _, err := slow.Relay(context.Background()); check1(t, err) })
	<-e.at // it has read the first, and is about to publish it
	require.NoError(t, fast.Enqueue(t.Context(), db, queue.Message{Key: "k", Body: []byte("second")}))
	done := make(chan struct{})
	wg.Go(func() { _, err := fast.Relay(context.Background()); check1(t, err); close(done) })
	require.Eventually(t, func() bool { // it waits for the row, or has overtaken
		select {
		case <-done:
			return true
		default:
		}
		var waiting int
		return db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").Scan(
			&waiting) == nil && waiting > 0
	}, 30*time.Second, time.Millisecond)
	close(e.gate)
	wg.Wait()
	require.Equal(t, []string{"first", "second"}, e.got)
}

func check1(t *testing.T, err error) {
	if err != nil {
		t.Error(err)
	}
}

// gated is an engine that publishes when its gate is open.
type gated struct {
	queue.Driver
	gate, at chan struct{}
	to       *gated
	mu       sync.Mutex
	got      []string
}

func (g *gated) Caps() queue.Caps { return queue.Caps{} }

func (g *gated) Publish(_ context.Context, msgs []queue.Message, _ []queue.Receipt) error {
	if g.gate != nil {
		g.at <- struct{}{}
		<-g.gate
	}
	to := g
	if g.to != nil {
		to = g.to
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	for _, m := range msgs {
		to.got = append(to.got, string(m.Body))
	}
	return nil
}

func TestOptionsNameTheField(t *testing.T) {
	q, err := queue.Open(t.TempDir(), queue.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	defer q.Close()
	for field, o := range map[string]outbox.Options{"table": {Table: "a b"}, "dialect": {Dialect: 9},
		"Interval": {Interval: -1}, "Batch": {Batch: -1}} {
		_, err := outbox.New(sqlite(t), q, o)
		require.ErrorContains(t, err, field)
	}
	_, err = outbox.New(nil, q, outbox.Options{})
	require.Error(t, err)
	require.False(t, errors.Is(err, context.Canceled))
}
