package testserver

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSServer is an embedded NATS with JetStream. It lives in the test process, so it cannot be frozen; Kill is an
// abrupt shutdown that keeps the files.
type NATSServer struct {
	dir  string
	port int
	mu   sync.Mutex
	srv  *server.Server
}

// NATS starts a server that ends with the test.
func NATS(t testing.TB) *NATSServer {
	t.Helper()
	dir, err := newDir("nats", nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &NATSServer{dir: dir, port: freePort()}
	t.Cleanup(func() {
		n.Kill()
		_ = os.RemoveAll(dir)
	})
	if err := n.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	return n
}

// URL for nats.Connect.
func (n *NATSServer) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(n.port) }

// Kill ends the server; clients see their connections break.
func (n *NATSServer) Kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.srv != nil {
		n.srv.Shutdown()
		n.srv.WaitForShutdown()
		n.srv = nil
	}
}

// Restart kills the server if it runs and starts it on the same files and port.
func (n *NATSServer) Restart(ctx context.Context) error {
	n.Kill()
	n.mu.Lock()
	defer n.mu.Unlock()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: n.port, JetStream: true, StoreDir: n.dir,
		NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	srv.Start()
	wait := 20 * time.Second
	if d, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(d))
	}
	if !srv.ReadyForConnections(wait) {
		srv.Shutdown()
		return errors.New("testserver: NATS did not get ready")
	}
	n.srv = srv
	return nil
}
