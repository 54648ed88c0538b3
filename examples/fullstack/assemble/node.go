package assemble

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
)

// node is one simulated server: everything that it does to the world passes its gate.
type node struct {
	name, tier, zone string
	gate             *gate.Gate
	addr             string // where it listens; empty for nodes without a listener
	srv              *http.Server
	requests, probes atomic.Uint64 // probes are among the requests
	since            moment
}

// moment remembers when a state began.
type moment struct {
	mu    sync.Mutex
	state string
	began time.Time
}

// at returns when the state that holds now was first seen.
func (m *moment) at(state string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != state {
		m.state, m.began = state, time.Now()
	}
	return m.began
}

func newNode(name, tier, zone string) *node {
	return &node{name: name, tier: tier, zone: zone, gate: gate.New()}
}

// serve starts an HTTP server behind the gate.
func (n *node) serve(addr string, h http.Handler) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	n.addr = ln.Addr().String()
	n.srv = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.requests.Add(1)
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          discard,
	}
	go n.srv.Serve(n.gate.Listener(ln))
	return nil
}

// alive reports whether the node is neither dead nor frozen.
func (n *node) alive() bool { return n.gate.State() == gate.Open }

func (n *node) state() string { return stateOf(n.gate) }

func stateOf(g *gate.Gate) string {
	switch g.State() {
	case gate.Dead:
		return "down"
	case gate.Frozen:
		return "frozen"
	}
	if g.Delay() > 0 {
		return "slow"
	}
	return "up"
}

// shutdown drains; close ends at once.
func (n *node) shutdown(ctx context.Context) error {
	if n.srv == nil {
		return nil
	}
	err := n.srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		n.srv.Close()
	}
	return err
}

func (n *node) close() {
	if n.srv != nil {
		n.srv.Close()
	}
}
