package jetstream_test

import (
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
		goleak.IgnoreTopFunction("time.Sleep"), goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushLoop"))
}

func connect(t *testing.T) *nats.Conn {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, SyncAlways: true})
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
