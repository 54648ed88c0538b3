package pgqueue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/pgqueue"
	"github.com/tierkit/tierkit/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, dsn string) *pgxpool.Pool {
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func open(t *testing.T, pool *pgxpool.Pool, o pgqueue.Options) *queue.Queue {
	q, err := pgqueue.Open(t.Context(), pool, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	return q
}

func TestConformance(t *testing.T) {
	pool := connect(t, testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DSN())
	n := 0
	queuetest.Run(t, func(t *testing.T) *queue.Queue {
		n++
		return open(t, pool, pgqueue.Options{Table: fmt.Sprintf("q%d", n)})
	})
}

func TestEnqueueIsPartOfTheTransaction(t *testing.T) {
	pool := connect(t, testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DSN())
	q := open(t, pool, pgqueue.Options{})
	g, err := q.Group(t.Context(), "mail", "workers", queue.GroupOptions{})
	require.NoError(t, err)
	failed := errors.New("changed my mind")
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := pgqueue.Enqueue(t.Context(), q, tx, queue.Message{Topic: "mail", ID: "a", Body: []byte("never")})
		require.NoError(t, err)
		return failed
	})
	require.ErrorIs(t, err, failed)
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		rs, err := pgqueue.Enqueue(t.Context(), q, tx, queue.Message{Topic: "mail", ID: "a", Body: []byte("sent")},
			queue.Message{Topic: "mail", ID: "a"})
		require.NoError(t, err)
		require.False(t, rs[0].Duplicate)
		require.True(t, rs[1].Duplicate)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = g.Fetch(ctx, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded, "not before the commit")
		return nil
	})
	require.NoError(t, err)
	ds, err := g.Fetch(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.Equal(t, "sent", string(ds[0].Body))
}

// Two processes, here two queues on pools of their own: a publisher wakes the other's consumer at once, and of one key
// never two are in flight, whoever publishes and whoever consumes.
func TestKeysAndNewsBetweenProcesses(t *testing.T) {
	dsn := testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DSN()
	var qs []*queue.Queue
	var gs []*queue.Group
	for range 2 {
		q := open(t, connect(t, dsn), pgqueue.Options{Poll: time.Minute})
		g, err := q.Group(t.Context(), "t", "workers", queue.GroupOptions{})
		require.NoError(t, err)
		qs, gs = append(qs, q), append(gs, g)
	}
	const keys, each = 5, 40
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	inFlight, last, got := map[string]int{}, map[string]uint64{}, 0
	var wg sync.WaitGroup
	for c := range 6 {
		wg.Go(func() {
			for {
				ds, err := gs[c%2].Fetch(ctx, 3)
				if err != nil {
					return
				}
				mu.Lock()
				for _, d := range ds {
					if inFlight[d.Key]++; inFlight[d.Key] > 1 {
						t.Errorf("two of key %s in flight", d.Key)
					}
					if d.Attempt == 1 && d.Seq < last[d.Key] {
						t.Errorf("key %s: %d after %d", d.Key, d.Seq, last[d.Key])
					}
					last[d.Key] = max(last[d.Key], d.Seq)
				}
				mu.Unlock()
				for i, d := range ds {
					mu.Lock()
					inFlight[d.Key]--
					again := (got+i)%9 == 0 && d.Attempt == 1
					if !again {
						got++
					}
					if got == keys*each {
						cancel()
					}
					mu.Unlock()
					if again {
						err = d.Nack(context.Background(), 0)
					} else {
						err = d.Ack(context.Background())
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	var pub sync.WaitGroup
	for p := range 4 {
		pub.Go(func() {
			for i := range keys * each / 4 {
				if _, err := qs[p%2].Publish(context.Background(),
					queue.Message{Topic: "t", Key: fmt.Sprint("k", i%keys), Body: fmt.Append(nil, p, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pub.Wait()
	wg.Wait()
	require.Equal(t, keys*each, got, "news arrive without polling")
}

// The server is killed under load and comes back: what was acknowledged to a publisher is delivered, what was
// acknowledged by a consumer never again.
func TestServerKilled(t *testing.T) {
	server := testserver.Postgres(t, testserver.PostgresOptions{}).Primary()
	q := open(t, connect(t, server.DSN()), pgqueue.Options{Poll: 100 * time.Millisecond})
	g, err := q.Group(t.Context(), "t", "workers", queue.GroupOptions{Lease: time.Second, MaxDeliveries: -1})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var mu sync.Mutex
	published, acked, inDoubt, again := map[string]bool{}, map[string]time.Time{}, map[string]bool{}, 0
	stop := make(chan struct{})
	var pub, con sync.WaitGroup
	for p := range 4 {
		pub.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", p, i)
				for ctx.Err() == nil { // the same id until it is known to be stored
					if _, err := q.Publish(ctx, queue.Message{Topic: "t", ID: id}); err == nil {
						mu.Lock()
						published[id] = true
						mu.Unlock()
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
		con.Go(func() {
			for ctx.Err() == nil {
				asked := time.Now()
				ds, err := g.Fetch(ctx, 10)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				for _, d := range ds {
					mu.Lock()
					if at, ok := acked[d.ID]; ok && at.Before(asked) {
						again++
					}
					mu.Unlock()
					err := d.Ack(ctx)
					mu.Lock()
					switch {
					case err == nil:
						acked[d.ID] = time.Now()
					case !errors.Is(err, queue.ErrLeaseLost):
						// the server may have died between the commit and its answer
						inDoubt[d.ID] = true
					}
					mu.Unlock()
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(published)
	}
	for range 2 {
		have := count()
		require.Eventually(t, func() bool { return count() > have+200 }, 30*time.Second, 5*time.Millisecond)
		server.Kill()
		require.NoError(t, server.Restart(ctx))
	}
	have := count()
	require.Eventually(t, func() bool { return count() > have+200 }, 30*time.Second, 5*time.Millisecond)
	close(stop)
	pub.Wait()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		for id := range published {
			if acked[id].IsZero() && !inDoubt[id] {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond)
	require.Less(t, len(inDoubt), len(published)/4)
	require.Eventually(t, func() bool { // nor is anything left of those in doubt
		l, err := g.Lag(ctx)
		return err == nil && l.Ready == 0 && l.InFlight == 0
	}, 30*time.Second, 20*time.Millisecond)
	cancel()
	con.Wait()
	require.Zero(t, again, "delivered after its acknowledgement")
}

func TestOptionsAndCaps(t *testing.T) {
	server := testserver.Postgres(t, testserver.PostgresOptions{Fsync: true}).Primary()
	pool := connect(t, server.DSN())
	_, err := pgqueue.Open(t.Context(), pool, pgqueue.Options{Table: "Robert'); drop table"})
	require.ErrorContains(t, err, "Options.Table")
	_, err = pgqueue.Open(t.Context(), pool, pgqueue.Options{Poll: -1})
	require.ErrorContains(t, err, "Options.Poll")
	risky := connect(t, testserver.Postgres(t, testserver.PostgresOptions{}).Primary().DSN())
	require.Contains(t, open(t, risky, pgqueue.Options{}).Caps().Weaker, "fsync")
	require.Empty(t, open(t, pool, pgqueue.Options{}).Caps().Weaker)
	weak := connect(t, server.DSN()+"&options=-c%20synchronous_commit%3Doff")
	q := open(t, weak, pgqueue.Options{})
	require.Contains(t, q.Caps().Weaker, "synchronous_commit")
	_, err = q.Publish(t.Context(), queue.Message{Topic: "a\x00b"})
	require.ErrorContains(t, err, "Topic")
	_, err = q.Publish(t.Context(), queue.Message{Header: map[string]string{"x": "\xff"}})
	require.ErrorContains(t, err, `Header["x"]`)
	g, err := q.Group(t.Context(), "", "all kinds", queue.GroupOptions{})
	require.NoError(t, err)
	for _, id := range []string{" again", "", " "} { // whatever an id looks like, its message is stored
		r, err := q.Publish(t.Context(), queue.Message{ID: id, Body: []byte("x")})
		require.NoError(t, err)
		require.False(t, r.Duplicate)
		ds, err := g.Fetch(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, id, ds[0].ID)
		require.NoError(t, ds[0].Ack(t.Context()))
	}
	header := map[string]string{`a"b\c{},`: "", "": `NULL`, "ü": "\n"}
	_, err = q.Publish(t.Context(), queue.Message{Header: header})
	require.NoError(t, err)
	ds, err := g.Fetch(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, header, ds[0].Header)
	require.NoError(t, ds[0].Term(t.Context(), "a\x00reason\xff"))
	require.NoError(t, q.Close())
	_, err = q.Publish(t.Context(), queue.Message{})
	require.ErrorIs(t, err, queue.ErrClosed)
	_, err = g.Fetch(t.Context(), 1)
	require.ErrorIs(t, err, queue.ErrClosed)
}
