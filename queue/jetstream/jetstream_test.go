package jetstream_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/jetstream"
	"github.com/tierkit/tierkit/queue/queuetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*ipQueue[...]).pop"),
		goleak.IgnoreTopFunction("time.Sleep"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushLoop"))
}

func connect(t *testing.T) *nats.Conn {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(),
		NoSigs: true, NoLog: true, SyncAlways: true})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(10*time.Second))
	nc, err := nats.Connect(s.ClientURL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func TestConformance(t *testing.T) {
	queuetest.Run(t, func(t *testing.T) *queue.Queue {
		q, err := jetstream.Open(t.Context(), connect(t), jetstream.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { q.Close() })
		return q
	})
}

func TestCapsTellTheTruth(t *testing.T) {
	nc := connect(t)
	q, err := jetstream.Open(t.Context(), nc, jetstream.Options{})
	require.NoError(t, err)
	defer q.Close()
	require.Contains(t, q.Caps().Weaker, "may lose")
	sure, err := jetstream.Open(t.Context(), nc, jetstream.Options{SyncAlways: true})
	require.NoError(t, err)
	defer sure.Close()
	require.Empty(t, sure.Caps().Weaker)
	_, err = jetstream.Open(t.Context(), nc, jetstream.Options{Replicas: 9})
	require.ErrorContains(t, err, "Replicas")
	_, err = jetstream.Open(t.Context(), nc, jetstream.Options{Stream: "a.b"})
	require.ErrorContains(t, err, "Stream")
}

// An acknowledgement or a verdict that did not get through does not end the lease: it can be tried again.
func TestSettleAgain(t *testing.T) {
	q, err := jetstream.Open(t.Context(), connect(t), jetstream.Options{})
	require.NoError(t, err)
	defer q.Close()
	g, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{})
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, settle := range []func(context.Context, *queue.Delivery) error{
		func(ctx context.Context, d *queue.Delivery) error { return d.Ack(ctx) },
		func(ctx context.Context, d *queue.Delivery) error { return d.Term(ctx, "bad") },
	} {
		_, err = q.Publish(t.Context(), queue.Message{Topic: "t"})
		require.NoError(t, err)
		ds, err := g.Fetch(t.Context(), 1)
		require.NoError(t, err)
		require.ErrorIs(t, settle(ended, ds[0]), context.Canceled)
		require.NoError(t, settle(t.Context(), ds[0]))
		require.ErrorIs(t, settle(t.Context(), ds[0]), queue.ErrLeaseLost)
	}
	dead, err := g.Dead(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.EqualValues(t, 1, q.Stats().Acked)
}

// tardy is a context whose deadline passes before it ends, as on a machine that stood still.
type tardy struct {
	context.Context
	asked atomic.Int64
}

func (c *tardy) Deadline() (time.Time, bool) {
	if c.asked.Add(1) == 1 {
		return time.Now().Add(time.Minute), true
	}
	return time.Now().Add(-time.Second), true
}

func TestFetchWithATardyContext(t *testing.T) {
	q, err := jetstream.Open(t.Context(), connect(t), jetstream.Options{})
	require.NoError(t, err)
	defer q.Close()
	g, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(300*time.Millisecond, cancel).Stop()
	_, err = g.Fetch(&tardy{Context: ctx}, 1)
	require.ErrorIs(t, err, context.Canceled)
}
