package front

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/socket"
	"github.com/tierkit/tierkit/lb"
)

// conn is one client connection of a [Server]: its goroutine reads a request, forwards it, and then reads the next.
type conn struct {
	socket.Conn
	f       *Server
	state   watched
	up      atomic.Pointer[http1.Conn] // what a phase of waiting or relaying waits for
	under   syscall.RawConn
	reader  io.ReaderFrom // of the TCP connection, for splice; nil: none
	peer    netip.Addr
	trusted bool
	usual   lb.Key // of every request, unless the options want more
	custom  bool

	in   []byte // in[r:w] was read and not used yet
	r, w int
	out  []byte // the answer, built in place
	head http1.RequestHead
	raw  []byte // the head of the request, in in
	body []byte // its body, in in
	lb.Attempts
	key lb.Key // of the request at hand

	outcome http1.Outcome // of the attempt at hand
}

const (
	frontBuffer = 4 << 10
	lingering   = 500 * time.Millisecond
)

func newConn(f *Server, nc net.Conn) *conn {
	c := &conn{f: f, under: socket.Under(nc)}
	c.Conn.Init(nc)
	c.reader, _ = nc.(io.ReaderFrom)
	c.state.enter(phaseReading, f.now.Load())
	return c
}

func (c *conn) now() uint32 { return c.f.now.Load() }

// closeIdle closes the connection if it is between two requests.
func (c *conn) closeIdle() {
	if p, _, word := c.state.load(); p == phaseIdle && c.state.change(word, phaseClosing) {
		c.Close()
	}
}

func (c *conn) serve() {
	defer c.f.gone(c)
	defer c.caught()
	c.peer = peerOf(c.RemoteAddr().String()) // waits for a PROXY header, where there must be one
	c.trusted = c.peer.IsValid() && clientaddr.Within(c.f.trusted, c.peer)
	c.custom = c.f.custom || c.trusted
	c.usual.Hash, c.usual.Keyed = lb.KeyClient()(nil, c.peer)
	for {
		switch c.read() {
		case http1.Bad:
			return
		case http1.Unusual:
			c.handOver()
			return
		}
		c.f.requests.Add(1)
		again, passed := c.exchange()
		if passed {
			c.handOver()
			return
		}
		if !again {
			c.Close()
			return
		}
		c.r += len(c.raw) + len(c.body)
		if c.r == c.w {
			c.r, c.w = 0, 0
		}
		if cap(c.out) > 64<<10 {
			c.out = nil
		}
	}
}

// handOver gives the connection to net/http, with the bytes that were read of it.
func (c *conn) handOver() {
	c.f.hand(0, &handedConn{Conn: c.Conn.Conn, first: bytes.Clone(c.in[c.r:c.w])})
}

// caught ends the connection, not the process, when a function of the options panics, as net/http does.
func (c *conn) caught() {
	if v := recover(); v != nil {
		c.Close()
		if up := c.up.Load(); up != nil {
			up.Close()
		}
		if v != http.ErrAbortHandler {
			c.f.logf("lb: front: panic serving %v: %v\n%s", c.RemoteAddr(), v, debug.Stack())
		}
	}
}

// read waits for a request: its head and, where that is short, its body. When it says http1.Bad the connection has
// been closed, and answered if there was somebody to answer to.
func (c *conn) read() http1.Verdict {
	seen, reading := 0, c.w > c.r
	p := phaseIdle
	if reading {
		p = phaseReading
	}
	if c.state.enter(p, c.now()) >= phaseLate || c.closing() && !reading {
		c.Close()
		return http1.Bad
	}
	var end int
	for {
		if c.w > c.r {
			var bad bool
			if end, bad = http1.EndOfHead(c.in[c.r:c.w], seen); bad {
				return c.refuse(http.StatusBadRequest)
			}
			if end > 0 {
				break
			}
			seen = c.w - c.r
			if seen > c.f.o.MaxHeaderBytes {
				return c.refuse(http.StatusRequestHeaderFieldsTooLarge)
			}
		}
		if !c.fill(frontBuffer) {
			return http1.Bad
		}
		if !reading {
			reading = true
			if c.state.enter(phaseReading, c.now()) >= phaseLate {
				c.Close()
				return http1.Bad
			}
		}
	}
	if end > c.f.o.MaxHeaderBytes {
		return c.refuse(http.StatusRequestHeaderFieldsTooLarge)
	}
	v := c.head.Parse(c.in[c.r:c.r+end], c.trusted)
	switch {
	case v == http1.Bad:
		return c.refuse(http.StatusBadRequest)
	case v == http1.Plain && c.head.Length > c.f.pool.Retry.MaxBody, !c.f.plain():
		v = http1.Unusual
	}
	if v == http1.Unusual {
		if c.state.enter(phasePicking, c.now()) >= phaseLate {
			c.Close()
			return http1.Bad
		}
		return v
	}
	n := int(c.head.Length)
	for c.w-c.r < end+n {
		if c.state.enter(phaseBody, c.now()) >= phaseLate || !c.fill(end+n-(c.w-c.r)) {
			c.Close()
			return http1.Bad
		}
	}
	c.raw = c.in[c.r : c.r+end]
	c.body = c.in[c.r+end : c.r+end+n]
	return http1.Plain
}

// fill reads more, with room for want bytes or more. false: the connection is over.
func (c *conn) fill(want int) bool {
	if len(c.in)-c.w < want {
		if c.r > 0 {
			c.w = copy(c.in, c.in[c.r:c.w])
			c.r = 0
		}
		if len(c.in)-c.w < want {
			in := make([]byte, max(c.w+want, frontBuffer))
			copy(in, c.in[:c.w])
			c.in = in
		}
	}
	n, err := c.Conn.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return true
	}
	if err != nil {
		c.Close()
		return false
	}
	return true
}

func (c *conn) closing() bool { return c.f.draining.Load() }

// refuse answers what is no proper request; nothing after it can be trusted.
func (c *conn) refuse(status int) http1.Verdict {
	c.f.refused.Add(1)
	text := http.StatusText(status)
	c.state.enter(phaseRelaying, c.now())
	io.WriteString(&c.Conn, "HTTP/1.1 "+strconv.Itoa(status)+" "+text+
		"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "+
		strconv.Itoa(len(text))+"\r\n\r\n"+text)
	c.linger()
	return http1.Bad
}

// linger closes so that the answer is not lost to a reset: what the client still sends is read for a while.
func (c *conn) linger() {
	if w, ok := c.Conn.Conn.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		var sink [4 << 10]byte
		c.SetReadDeadline(time.Now().Add(lingering))
		for range 64 {
			if _, err := c.Conn.Read(sink[:]); err != nil {
				break
			}
		}
	}
	c.Close()
}

// request is the *http.Request that functions in the options want to see. It costs what net/http's parser does, so it
// is made for them alone.
func (c *conn) request() (*http.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.raw)))
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = c.RemoteAddr().String()
	r.Body, r.ContentLength = http.NoBody, int64(len(c.body))
	return r, nil
}

// handedConn gives the bytes back that were read before it was handed over.
type handedConn struct {
	net.Conn
	first []byte
}

func (c *handedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// ReadFrom lets the kernel move large answers.
func (c *handedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite keeps half closes working.
func (c *handedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Conn.Close()
}

// peerOf parses the address of the connection's peer.
func peerOf(s string) netip.Addr {
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}
