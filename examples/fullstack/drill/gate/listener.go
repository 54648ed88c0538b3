package gate

import (
	"context"
	"net"
	"sync"
	"time"
)

// Listener puts a listener behind the gate: a killed node refuses connections and drops those it has, a frozen one
// accepts (as a kernel does for a stopped process) and answers nothing. The gate does not close the inner listener on
// Kill: while dead, accepted connections are closed at once, so that the port stays reserved for the node's revival.
func (g *Gate) Listener(inner net.Listener) net.Listener { return &listener{Listener: inner, gate: g} }

type listener struct {
	net.Listener
	gate *Gate
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.gate.State() == Dead {
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0) // a reset, as from a host without a listener
			}
			_ = c.Close()
			continue
		}
		return l.gate.Conn(c), nil
	}
}

// Conn puts one connection behind the gate. It is closed when the node is killed.
func (g *Gate) Conn(c net.Conn) net.Conn {
	gc := &conn{Conn: c, gate: g, closed: make(chan struct{})}
	dead := g.Killed()
	go func() {
		select {
		case <-dead:
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0)
			}
			_ = c.Close()
		case <-gc.closed:
		}
	}()
	return gc
}

type conn struct {
	net.Conn
	gate   *Gate
	once   sync.Once
	closed chan struct{}
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Read delivers nothing while the node is frozen, and late while it is slow. The wait happens after the bytes arrived,
// since a frozen process has an open receive window.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if d := c.gate.Delay(); d > 0 && n > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.closed:
		}
	}
	if e := c.pass(); e != nil {
		return 0, e
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) pass() error {
	g := c.gate
	g.mu.Lock()
	if g.state == Open { // the usual case takes no context
		g.mu.Unlock()
		return nil
	}
	g.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-c.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := g.Enter(ctx); err != nil {
		return err
	}
	g.Leave()
	return nil
}
