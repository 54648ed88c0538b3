package http1

import (
	"bufio"
	"context"
	"math"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tierkit/tierkit/internal/socket"
)

// Conn is one connection to a backend, used by one request at a time.
type Conn struct {
	socket.Conn
	Reader *bufio.Reader // of the answer; Head may replace it by a larger one
	Out    []byte        // where the request's head is built
	Used   bool          // the connection carried a request before
	Pause  func() error  // called before a read that may wait; nil: nothing to do
	Abort  func()        // closes the connection; bound once, so that its use does not allocate

	under syscall.RawConn       // the socket, also below other connections; nil: none
	quiet bool                  // result of peek
	peek  func(fd uintptr) bool // bound once, so that a look does not allocate
	since time.Time             // idle since then
	chunk ChunkReader           // of the answer at hand

	standing atomic.Int64 // read deadline, as a time since the process began; or one of the two values below

	ctx  context.Context // while the pool watches it, see Pool.watch
	at   int             // index in Pool.busy
	left bool            // ctx has ended
}

// Values of Conn.standing that are no time.
const (
	noDeadline      = 0
	anotherDeadline = math.MinInt64 // set by SetReadDeadline
)

// Chunks starts to decode a chunked body. The reader belongs to c and is good until the next call.
func (c *Conn) Chunks() *ChunkReader {
	c.chunk = ChunkReader{br: c.Reader}
	return &c.chunk
}

// pausing is the source of a connection's buffered reader: it calls Pause before it reads.
type pausing struct{ c *Conn }

func (s pausing) Read(p []byte) (int, error) {
	if s.c.Pause != nil {
		if err := s.c.Pause(); err != nil {
			return 0, err
		}
	}
	return s.c.Conn.Read(p)
}

// SetReadDeadline sets the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.standing.Store(anotherDeadline)
	return c.Conn.SetReadDeadline(t)
}

// Untimed takes away the read deadline, which may be left from the request before.
func (c *Conn) Untimed() {
	if c.standing.Swap(noDeadline) != noDeadline {
		c.Conn.SetReadDeadline(time.Time{})
	}
}

// Within gives reads the time d, or up to an eighth more. A deadline that is set and good enough stays: to change it
// with every request would cost as much as a small copy.
func (c *Conn) Within(d time.Duration) {
	now := socket.Clock()
	if left := time.Duration(c.standing.Load()) - now; left >= d && left <= d+d/8 {
		return
	}
	at := now + d + d/16
	c.Conn.SetReadDeadline(time.Now().Add(at - now))
	c.standing.Store(int64(at))
}

const readBuffer = 16 << 10

func newConn(nc net.Conn) *Conn {
	c := &Conn{}
	c.Conn.Init(nc)
	c.Reader = bufio.NewReaderSize(pausing{c}, readBuffer)
	c.Abort = func() { nc.Close() }
	if c.under = socket.Under(nc); c.under != nil {
		c.peek = func(fd uintptr) bool { c.quiet = socket.Quiet(fd); return true }
	}
	return c
}

// reusable looks at an idle connection without blocking. An end, an error or bytes that no request asked for mean that
// it must not be used again. careful says that a connection whose socket cannot be looked at will not do. A backend
// that closes just after the look still fails the request, which is why a request that is not idempotent becomes a 502.
func (c *Conn) reusable(careful bool) bool {
	if c.Reader.Buffered() > 0 {
		return false
	}
	if at := c.standing.Load(); at != noDeadline && (at == anotherDeadline || time.Duration(at) <= socket.Clock()) {
		c.Untimed() // it may have passed while the connection was idle
	}
	if c.under == nil {
		return !careful
	}
	return c.under.Read(c.peek) == nil && c.quiet
}

// Socket reports whether c has a socket below it that can be looked at.
func (c *Conn) Socket() bool { return c.under != nil }

// Await blocks until the backend has sent more. idle, if positive, bounds the wait.
func (c *Conn) Await(idle time.Duration) error {
	if c.Reader.Buffered() > 0 {
		return nil
	}
	if idle > 0 {
		c.Within(idle)
	}
	_, err := c.Reader.Peek(1)
	return Unexpected(err)
}
