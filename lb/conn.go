package lb

import (
	"bufio"
	"context"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connPool keeps the idle HTTP/1 connections of one backend, last in first out: the warmest is used first and the
// surplus grows old. A connection has no goroutine while it is idle; what happened to it is looked at before it is
// used.
type connPool struct {
	addr  string
	o     *Options
	dials atomic.Uint64

	mu     sync.Mutex // guards what follows; one per backend, held for a push or a pop
	idle   []*conn
	closed bool
	reaper *time.Timer
	busy   []*conn     // with a context
	sweep  *time.Timer // looks at these; nil: none is due
}

func (p *connPool) init(addr string, o *Options) { p.addr, p.o = addr, o }

// conn is one connection to a backend, used by one request at a time.
type conn struct {
	socket
	br    *bufio.Reader
	out   []byte                // the request's head, built in place
	under syscall.RawConn       // the socket, also under other connections; nil: none
	quiet bool                  // result of peek
	peek  func(fd uintptr) bool // bound once, so that a look costs no allocation
	abort func()                // Close, bound once: what a client that leaves calls
	since time.Time             // idle since
	used  bool                  // carried a request before
	pause func() error          // called before a read that may wait; nil: nothing to do
	chunk chunkReader           // of the answer at hand

	standing atomic.Int64 // the deadline of reading, as a time since the process began; noDeadline, or anotherDeadline

	ctx  context.Context // while the pool looks after it, see connPool.look
	at   int             // in connPool.busy
	left bool            // ctx has ended
}

const noDeadline, anotherDeadline = 0, math.MinInt64

// chunkReader starts to decode a chunked body.
func (c *conn) chunkReader() *chunkReader {
	c.chunk = chunkReader{br: c.br}
	return &c.chunk
}

// pausing is what the buffered reader of a connection reads from.
type pausing struct{ c *conn }

func (s pausing) Read(p []byte) (int, error) {
	if s.c.pause != nil {
		if err := s.c.pause(); err != nil {
			return 0, err
		}
	}
	return s.c.socket.Read(p)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.standing.Store(anotherDeadline)
	return c.Conn.SetReadDeadline(t)
}

// untimed takes away the deadline of the request before.
func (c *conn) untimed() {
	if c.standing.Swap(noDeadline) != noDeadline {
		c.Conn.SetReadDeadline(time.Time{})
	}
}

// within gives reads the time d, up to an eighth more: a deadline that stands and will do is left, since changing it
// costs as much as a small copy, with every request.
func (c *conn) within(d time.Duration) {
	now := time.Since(began)
	if left := time.Duration(c.standing.Load()) - now; left >= d && left <= d+d/8 {
		return
	}
	at := now + d + d/16
	c.Conn.SetReadDeadline(began.Add(at))
	c.standing.Store(int64(at))
}

const readBuffer = 16 << 10

// get returns an idle connection that is still good, or a new one. careful leaves out connections that can't be
// looked at, for requests that must not be sent twice. When look is set the pool looks after the connection until it is
// put back or dropped: it is closed when ctx ends.
func (p *connPool) get(ctx context.Context, careful, look bool) (*conn, error) {
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
		if look {
			p.look(c, ctx)
		}
		p.mu.Unlock()
		if c.reusable(careful) {
			return c, nil
		}
		p.drop(c)
	}
	return p.dial(ctx, look)
}

// dial returns a new connection.
func (p *connPool) dial(ctx context.Context, look bool) (*conn, error) {
	p.dials.Add(1)
	nc, err := p.o.Dial(ctx, "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	c := newConn(nc)
	if look {
		p.mu.Lock()
		p.look(c, ctx)
		p.mu.Unlock()
	}
	return c, nil
}

func newConn(nc net.Conn) *conn {
	c := &conn{}
	c.socket.init(nc)
	c.br = bufio.NewReaderSize(pausing{c}, readBuffer)
	c.abort = func() { nc.Close() }
	if c.under = rawOf(nc); c.under != nil {
		c.peek = func(fd uintptr) bool { c.quiet = silent(fd); return true }
	}
	return c
}

// reusable looks without blocking: an end, an error or bytes that nobody asked for all mean that the connection is not
// to be used again. A backend that closes just after this look still fails the request, which is why a request that is
// not idempotent then becomes a 502.
func (c *conn) reusable(careful bool) bool {
	if c.br.Buffered() > 0 {
		return false
	}
	if at := c.standing.Load(); at != noDeadline && (at == anotherDeadline || time.Duration(at) <= time.Since(began)) {
		c.untimed() // it may have passed while nobody read
	}
	if c.under == nil {
		return !careful
	}
	return c.under.Read(c.peek) == nil && c.quiet
}

func (p *connPool) put(c *conn) {
	c.used = true
	if cap(c.out) > 64<<10 {
		c.out = nil
	}
	now := time.Now()
	c.since = now
	p.mu.Lock()
	left := p.unlook(c)
	if left || p.closed || len(p.idle) >= p.o.MaxIdle {
		p.mu.Unlock()
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if keep := p.o.Timeouts.KeepIdle; keep > 0 && p.reaper == nil {
		p.reaper = time.AfterFunc(keep, p.reap)
	}
	p.mu.Unlock()
}

// reap closes what has been idle for too long: the oldest are at the bottom of the stack.
func (p *connPool) reap() {
	keep := p.o.Timeouts.KeepIdle
	now := time.Now()
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= keep {
		n++
	}
	old := append([]*conn(nil), p.idle[:n]...)
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

func (p *connPool) close() {
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

func (p *connPool) stats() (idle int, dials uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle), p.dials.Load()
}
