package queue_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

type job struct{ N int }

func send(t testing.TB, q *queue.Queue, kind string, n int) {
	_, err := queue.Send(t.Context(), q, queue.Message{Topic: "t", Kind: kind}, job{n})
	require.NoError(t, err)
}

func pool(t testing.TB, g *queue.Group, m *queue.Mux, o queue.PoolOptions) *queue.Pool {
	p, err := queue.NewPool(g, m, o)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func eventually(t testing.TB, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, 2*time.Millisecond)
}

// until waits in a bubble's virtual time, for an hour of it at most.
func until(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Hour); !f(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "not in time")
	}
}

func drained(t testing.TB, g *queue.Group) func() bool {
	return func() bool {
		l, err := g.Lag(context.Background())
		return err == nil && l.Ready+l.InFlight+l.Delayed == 0
	}
}

func TestPoolHandlesTypedJobs(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{Backoff: queue.Backoff{Base: time.Millisecond}, MaxDeliveries: 3})
	m := queue.NewMux()
	var sum, tries, panics atomic.Int64
	queue.Handle(m, "add", func(ctx context.Context, j *queue.Job[job]) error {
		sum.Add(int64(j.Data.N))
		return nil
	})
	queue.Handle(m, "flaky", func(ctx context.Context, j *queue.Job[job]) error {
		if tries.Add(1) == 1 {
			return errors.New("not yet")
		}
		return nil
	})
	queue.Handle(m, "panics", func(ctx context.Context, j *queue.Job[job]) error {
		panics.Add(1)
		panic("boom")
	})
	queue.Handle(m, "drop", func(ctx context.Context, j *queue.Job[job]) error {
		return fmt.Errorf("bad address: %w", queue.ErrDrop)
	})
	var wrapped atomic.Int64
	m.Use(func(next queue.HandlerFunc) queue.HandlerFunc {
		return func(ctx context.Context, ds []*queue.Delivery) error {
			wrapped.Add(int64(len(ds)))
			return next(ctx, ds)
		}
	})
	p := pool(t, g, m, queue.PoolOptions{Workers: 3})
	for i := range 10 {
		send(t, q, "add", i)
	}
	send(t, q, "flaky", 0)
	send(t, q, "panics", 0)
	send(t, q, "drop", 0)
	publish(t, q, queue.Message{Topic: "t", Kind: "add", Body: []byte("no json")})
	send(t, q, "unknown", 0)
	eventually(t, func() bool {
		l, _ := g.Lag(context.Background())
		return l.Dead == 4 && l.Ready+l.InFlight+l.Delayed == 0
	})
	require.EqualValues(t, 45, sum.Load())
	require.EqualValues(t, 2, tries.Load())
	require.EqualValues(t, 3, panics.Load())
	require.Positive(t, wrapped.Load())
	letters, err := g.Dead(t.Context(), 10)
	require.NoError(t, err)
	reasons := map[string]string{}
	for _, l := range letters {
		reasons[l.Kind] = l.Reason
	}
	require.Contains(t, reasons["panics"], "boom")
	require.Contains(t, reasons["drop"], "bad address")
	require.Contains(t, reasons["add"], "decode")
	require.Contains(t, reasons["unknown"], "no handler")
	require.EqualValues(t, 3, p.Stats().Panicked)
}

func TestBatchHandlerAcksAllTogether(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{Backoff: queue.Backoff{Base: time.Millisecond}})
	m := queue.NewMux()
	var mu sync.Mutex
	seen, calls, failed := map[int]int{}, 0, false
	queue.HandleBatch(m, "view", queue.BatchOptions{Max: 50, Wait: 20 * time.Millisecond},
		func(ctx context.Context, jobs []*queue.Job[job]) error {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if calls == 2 {
				failed = true
				return errors.New("transaction rolled back")
			}
			for _, j := range jobs {
				seen[j.Data.N]++
			}
			return nil
		})
	for i := range 300 {
		send(t, q, "view", i)
	}
	pool(t, g, m, queue.PoolOptions{Workers: 2})
	eventually(t, drained(t, g))
	mu.Lock()
	defer mu.Unlock()
	require.True(t, failed)
	require.Len(t, seen, 300)
	for n, k := range seen {
		require.Equal(t, 1, k, n)
	}
	require.Less(t, calls, 30)
}

func TestSetWorkersWhileRunning(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	m := queue.NewMux()
	var running, most atomic.Int64
	hold := make(chan struct{})
	queue.Handle(m, "w", func(ctx context.Context, j *queue.Job[job]) error {
		n := running.Add(1)
		for o := most.Load(); n > o && !most.CompareAndSwap(o, n); o = most.Load() {
		}
		defer running.Add(-1)
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	})
	p := pool(t, g, m, queue.PoolOptions{Workers: -1})
	for i := range 12 {
		send(t, q, "w", i)
	}
	require.Zero(t, p.Workers())
	p.SetWorkers(2)
	eventually(t, func() bool { return running.Load() == 2 })
	p.SetWorkers(5)
	eventually(t, func() bool { return running.Load() == 5 })
	p.SetWorkers(1)
	require.Equal(t, 1, p.Workers())
	for running.Load() > 1 { // those let go finish what they have, and take nothing more
		select {
		case hold <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
	}
	close(hold)
	eventually(t, drained(t, g))
	require.EqualValues(t, 5, most.Load())
}

// A killed worker's job comes back when its lease ends, and nothing that the dead worker does counts any more.
func TestKilledWorkerInMidJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, t.TempDir(), queue.Options{})
		g := group(t, q, queue.GroupOptions{Lease: 300 * time.Millisecond})
		m := queue.NewMux()
		started := make(chan *queue.Job[job], 10)
		late := make(chan error, 1)
		var done atomic.Int64
		queue.Handle(m, "w", func(ctx context.Context, j *queue.Job[job]) error {
			started <- j
			if j.Attempt == 1 {
				<-ctx.Done()
				late <- j.Ack(context.Background())
				return nil
			}
			done.Add(1)
			return nil
		})
		p := pool(t, g, m, queue.PoolOptions{})
		send(t, q, "w", 1)
		<-started
		killed := time.Now()
		require.Equal(t, 1, p.Kill(1))
		require.ErrorIs(t, <-late, queue.ErrLeaseLost)
		j := <-started
		require.Equal(t, 2, j.Attempt)
		require.LessOrEqual(t, time.Since(killed), 400*time.Millisecond)
		until(t, drained(t, g))
		require.EqualValues(t, 1, done.Load())
		require.Equal(t, 1, p.Workers())
	})
}

func TestLongHandlerKeepsItsLeaseAndStuckOneLosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, t.TempDir(), queue.Options{})
		g := group(t, q, queue.GroupOptions{Lease: time.Minute})
		m := queue.NewMux()
		var calls, stuck atomic.Int64
		queue.Handle(m, "long", func(ctx context.Context, j *queue.Job[job]) error {
			calls.Add(1)
			time.Sleep(250 * time.Second)
			return nil
		})
		queue.Handle(m, "stuck", func(ctx context.Context, j *queue.Job[job]) error {
			if stuck.Add(1) == 1 {
				<-ctx.Done()
			}
			return nil
		})
		p := pool(t, g, m, queue.PoolOptions{Workers: 2, StuckAfter: 400 * time.Second})
		began := time.Now()
		send(t, q, "long", 1)
		until(t, drained(t, g))
		require.EqualValues(t, 1, calls.Load())
		require.Less(t, time.Since(began), 255*time.Second)
		send(t, q, "stuck", 1)
		until(t, func() bool { return stuck.Load() == 2 })
		require.NoError(t, p.Close())
		require.NoError(t, q.Close())
	})
}

func TestShutdownGivesUnstartedJobsBack(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	m := queue.NewMux()
	entered, hold := make(chan int, 10), make(chan struct{})
	queue.HandleBatch(m, "b", queue.BatchOptions{Max: 1}, func(ctx context.Context, jobs []*queue.Job[job]) error {
		entered <- len(jobs)
		select {
		case <-hold:
		case <-time.After(10 * time.Second):
		}
		return nil
	})
	p := pool(t, g, m, queue.PoolOptions{})
	send(t, q, "b", 1)
	send(t, q, "b", 2)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Shutdown(ctx), context.DeadlineExceeded)
	close(hold)
	require.NoError(t, p.Shutdown(t.Context()))
	d := fetchN(t, g, 1)[0]
	require.Equal(t, 1, d.Attempt)
	nothing(t, g)
	require.NoError(t, p.Close())
}

// A handler that ends its goroutine costs the pool nothing: the job is retried, and another worker takes the place.
func TestGoexitInAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, t.TempDir(), queue.Options{})
		g := group(t, q, queue.GroupOptions{Lease: 50 * time.Millisecond})
		m := queue.NewMux()
		var calls atomic.Int64
		queue.Handle(m, "w", func(ctx context.Context, j *queue.Job[job]) error {
			if calls.Add(1) == 1 {
				runtime.Goexit()
			}
			return nil
		})
		p := pool(t, g, m, queue.PoolOptions{})
		send(t, q, "w", 1)
		until(t, func() bool { return calls.Load() == 2 })
		until(t, drained(t, g))
		until(t, func() bool { return p.Stats().Busy == 0 })
	})
}
