package http1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Pool keeps the idle connections to one backend, last in first out: the warmest is used first and the surplus grows
// old. An idle connection has no goroutine; it is looked at before it is used again. A Pool is safe for concurrent use.
type Pool struct {
	o     PoolOptions
	dials atomic.Uint64

	mu     sync.Mutex // guards the fields below; held for a push or a pop
	idle   []*Conn
	closed bool
	reaper *time.Timer
	busy   []*Conn     // connections whose context is watched
	sweep  *time.Timer // looks at busy; nil: no look is due
}

// PoolOptions configure a [Pool].
type PoolOptions struct {
	Addr     string                                                            // "host:port" of the backend
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error) // required
	MaxIdle  int                                                               // idle connections that are kept
	KeepIdle time.Duration                                                     // and for how long; zero: for ever
}

// Init makes p ready. It must be called once, before all else.
func (p *Pool) Init(o PoolOptions) { p.o = o }

// Get returns an idle connection that is still good, or a new one. careful leaves out connections that cannot be looked
// at, for requests that must not be sent twice. With watch the pool closes the connection when ctx ends, until it is
// put back, dropped or released. The caller ends with Put or Drop.
func (p *Pool) Get(ctx context.Context, careful, watch bool) (*Conn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if watch {
			p.watch(c, ctx)
		}
		p.mu.Unlock()
		if c.reusable(careful) {
			return c, nil
		}
		p.Drop(c)
	}
	return p.Dial(ctx, watch)
}

// Dial returns a new connection. The caller ends with Put or Drop.
func (p *Pool) Dial(ctx context.Context, watch bool) (*Conn, error) {
	p.dials.Add(1)
	nc, err := p.o.Dial(ctx, "tcp", p.o.Addr)
	if err != nil {
		return nil, err
	}
	c := newConn(nc)
	if watch {
		p.mu.Lock()
		p.watch(c, ctx)
		p.mu.Unlock()
	}
	return c, nil
}

// Put gives back a connection that is in step: its answer was read to the end.
func (p *Pool) Put(c *Conn) {
	c.Used = true
	if cap(c.Out) > 64<<10 {
		c.Out = nil
	}
	now := time.Now()
	c.since = now
	p.mu.Lock()
	left := p.unwatch(c)
	if left || p.closed || len(p.idle) >= p.o.MaxIdle {
		p.mu.Unlock()
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if keep := p.o.KeepIdle; keep > 0 && p.reaper == nil {
		p.reaper = time.AfterFunc(keep, p.reap)
	}
	p.mu.Unlock()
}

// reap closes the connections that have been idle for too long. The oldest are at the bottom of the stack.
func (p *Pool) reap() {
	keep := p.o.KeepIdle
	now := time.Now()
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= keep {
		n++
	}
	old := append([]*Conn(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0], p.idle[n:]...)
	clear(p.idle[len(p.idle):cap(p.idle)])
	p.reaper = nil
	if len(p.idle) > 0 && !p.closed {
		p.reaper = time.AfterFunc(keep-now.Sub(p.idle[0].since), p.reap)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}

// Close closes the idle connections and those that are put back later. It is idempotent.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	if p.reaper != nil {
		p.reaper.Stop()
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// Stats returns the number of idle connections and how many connections were opened so far.
func (p *Pool) Stats() (idle int, dials uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle), p.dials.Load()
}
