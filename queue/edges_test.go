package queue_test

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// A delivery that is named twice in one settlement counts once, and the queue goes on.
func TestSettledTwiceInOneCall(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	for range 3 {
		publish(t, q, queue.Message{Topic: "t"})
	}
	ds := fetchN(t, g, 2)
	require.NoError(t, g.Ack(t.Context(), ds[0], ds[1], ds[0]))
	require.ErrorIs(t, g.Ack(t.Context(), ds[0], ds[0]), queue.ErrLeaseLost)
	require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
	require.EqualValues(t, 3, q.Stats().Acked)
	require.Zero(t, q.Stats().LiveBytes)
}

// What the cleaner has copied counts for Options.MaxBytes as what is taken off in the end.
func TestCopiesAreCounted(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{Lease: time.Hour})
	var old []*queue.Delivery
	for range 20 {
		publish(t, q, queue.Message{Topic: "t", Body: []byte("old")})
		old = append(old, fetchN(t, g, 1)[0])
	}
	body := make([]byte, 4000)
	for range 1000 { // 4 MB through segments of 256 KiB
		publish(t, q, queue.Message{Topic: "t", Body: body})
		require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
	}
	require.NoError(t, g.Ack(t.Context(), old...))
	require.Zero(t, q.Stats().LiveBytes)
}

// The largest Duration means "not any more" wherever there is one, as does a time that nanoseconds do not reach.
func TestForEver(t *testing.T) {
	const forever = math.MaxInt64
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{Lease: forever})
	for _, m := range []queue.Message{{}, {NotBefore: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, {TTL: forever}} {
		m.Topic = "t"
		publish(t, q, m)
	}
	ds := fetchN(t, g, 2)
	nothing(t, g)
	require.NoError(t, ds[0].Extend(t.Context(), forever))
	require.NoError(t, ds[0].Nack(t.Context(), forever))
	nothing(t, g)
	require.NoError(t, ds[1].Ack(t.Context()))
	l, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.Equal(t, queue.Lag{Delayed: 2}, l)

	g, err = q.Group(t.Context(), "t", "g", queue.GroupOptions{Lease: 10 * time.Millisecond})
	require.NoError(t, err)
	for { // a machine that stands still may lose the first lease
		publish(t, q, queue.Message{Topic: "t"})
		d := fetchN(t, g, 1)[0]
		if d.Extend(t.Context(), forever) == nil {
			nothing(t, g)
			require.NoError(t, d.Ack(t.Context()))
			break
		}
	}
}

// A batch that is larger than the limits is refused, and does not wait for room that cannot come.
func TestBatchAboveTheLimits(t *testing.T) {
	for _, o := range []queue.Options{{MaxDepth: 2}, {MaxBytes: 300}} {
		for _, o.Block = range []bool{false, true} {
			q := open(t, t.TempDir(), o)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := q.PublishBatch(ctx, []queue.Message{{Body: make([]byte, 100)}, {Body: make([]byte, 100)},
				{Body: make([]byte, 100)}})
			cancel()
			require.ErrorIs(t, err, queue.ErrTooLarge)
			_, err = q.PublishBatch(t.Context(), []queue.Message{{}, {}})
			require.NoError(t, err)
		}
	}
}

// A batch handler that is to wait for longer than a lease does not get its own messages again meanwhile.
func TestBatchWaitIsShorterThanTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, t.TempDir(), queue.Options{})
		defer q.Close()
		g := group(t, q, queue.GroupOptions{Lease: time.Second})
		m := queue.NewMux()
		var calls, jobs atomic.Int64
		queue.HandleBatch(m, "k", queue.BatchOptions{Wait: 10 * time.Second},
			func(ctx context.Context, js []*queue.Job[job]) error {
				calls.Add(1)
				jobs.Add(int64(len(js)))
				return nil
			})
		p := pool(t, g, m, queue.PoolOptions{})
		defer p.Close()
		for i := range 3 {
			send(t, q, "k", i)
			time.Sleep(time.Minute)
		}
		require.EqualValues(t, 3, jobs.Load())
		require.EqualValues(t, 3, calls.Load())
		require.Zero(t, q.Stats().LeaseExpired, fmt.Sprint(p.Stats()))
	})
}

// A message that is redriven after its TTL is delivered, also after its copy by the cleaner and a restart.
func TestRedrivenAfterItsTTL(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	for { // it has to be delivered in time once
		publish(t, q, queue.Message{Topic: "t", TTL: 200 * time.Millisecond, Body: []byte("late")})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		ds, err := g.Fetch(ctx, 1)
		cancel()
		if err == nil {
			require.NoError(t, ds[0].Term(t.Context(), "bad"))
			break
		}
	}
	time.Sleep(200 * time.Millisecond)
	n, err := g.Redrive(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	for _, o := range []queue.Options{{}, {}, {}} {
		late := fetchN(t, g, 1)[0]
		require.Equal(t, "late", string(late.Body))
		body := make([]byte, 4000)
		for range 500 { // 2 MB through segments of 256 KiB
			publish(t, q, queue.Message{Topic: "t", Body: body})
			require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
		}
		require.NoError(t, late.Release(t.Context()))
		require.NoError(t, q.Close())
		q = open(t, dir, o)
		g = group(t, q, queue.GroupOptions{})
	}
	require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
}
