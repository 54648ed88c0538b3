package jetstream_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/jetstream"
)

// TestClusterLosesANode publishes and consumes on a cluster of three while one of them goes away: everything
// acknowledged is delivered.
func TestClusterLosesANode(t *testing.T) {
	var routes []*url.URL
	var ports []int
	for range 3 { // free ports, given back a moment before the servers take them
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		port := l.Addr().(*net.TCPAddr).Port
		require.NoError(t, l.Close())
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	var servers []*server.Server
	urls := ""
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: -1,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true,
			NoLog: true, Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}, Routes: routes})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		servers = append(servers, s)
	}
	for _, s := range servers {
		require.True(t, s.ReadyForConnections(10*time.Second))
		urls += s.ClientURL() + ","
	}
	nc, err := nats.Connect(urls[:len(urls)-1], nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var q *queue.Queue
	require.Eventually(t, func() bool {
		octx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		q, err = jetstream.Open(octx, nc, jetstream.Options{Replicas: 3})
		return err == nil
	}, 20*time.Second, 100*time.Millisecond, "%v", &err)
	defer q.Close()
	require.Empty(t, q.Caps().Weaker)
	var g *queue.Group
	require.Eventually(t, func() bool {
		octx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		g, err = q.Group(octx, "t", "g", queue.GroupOptions{Lease: 2 * time.Second})
		return err == nil
	}, 20*time.Second, 100*time.Millisecond, "%v", &err)
	acked := map[string]bool{}
	publish := func(i int) {
		id := fmt.Sprint("m", i)
		for ctx.Err() == nil { // the same ID: a repetition stores nothing
			pctx, cancel := context.WithTimeout(ctx, time.Second)
			_, err := q.Publish(pctx, queue.Message{Topic: "t", ID: id})
			cancel()
			if err == nil {
				acked[id] = true
				return
			}
		}
	}
	for i := range 50 {
		publish(i)
	}
	for i, s := range servers { // the one that the client talks to
		if s.ClientURL() == nc.ConnectedUrl() || i == len(servers)-1 {
			s.Shutdown()
			break
		}
	}
	for i := range 50 {
		publish(50 + i)
	}
	require.Len(t, acked, 100)
	got := map[string]bool{}
	for len(got) < 100 {
		ds, err := g.Fetch(ctx, 20)
		if err != nil {
			require.NoError(t, ctx.Err(), "%d of 100 delivered: %v", len(got), err)
			continue
		}
		for _, d := range ds {
			got[d.ID] = true
			_ = d.Ack(ctx) // if this is lost the message comes again
		}
	}
	require.Equal(t, acked, got)
}
