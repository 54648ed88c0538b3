package front

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/lb"
)

// Server is an HTTP/1.1 server before the backends of a balancer. It reads the head of a request in place, refuses what
// two readers could understand differently, and sends the request on by copying bytes. A request that is out of the
// ordinary (a body in chunks or above Retry.MaxBody, Upgrade, Expect, HTTP/1.0) is checked in the same way and then
// handed to an [http.Server] with the balancer's Handler, on the same connection, which ends with it: the behavior is
// the same. Connections of a TLS listener, and all connections of a balancer with Options.Hedge or with backends that
// are not "http", are that server's from the start.
//
// The server notices a client that leaves, and keeps limits of time, within about 0.1 s. It drops a client that takes
// nothing of its answer for Timeouts.Idle.
//
// It refuses with 400 and an end of the connection: folded lines, lines that end without CR, blanks before a colon, a
// Host or Content-Length that is missing where it must be, is there twice or is malformed, and Content-Length together
// with Transfer-Encoding (RFC 9112 sections 2.2, 3.2, 5.1, 5.2 and 6.1).
//
// A Server is safe for concurrent use.
type Server struct {
	b       *lb.Balancer
	h       *lb.Handler
	o       Options
	pool    lb.Options // of the balancer
	custom  bool       // the options want an *http.Request of every request
	hedged  bool
	trusted []netip.Prefix

	rest   *http.Server // serves one request per connection: it has passed our checks, the next would not
	whole  *http.Server // serves connections from their start
	handed [2]*handover // listeners of the two

	requests, passed, refused, expired atomic.Uint64

	now      atomic.Uint32 // sweeps so far: the clock of all limits
	draining atomic.Bool   // closing, for those that do not take the lock

	mu      sync.Mutex // guards the fields below
	conns   map[*conn]struct{}
	listens map[net.Listener]struct{}
	closing bool
	started bool
	ended   chan struct{} // closed when the last connection has ended after Shutdown began
	stop    chan struct{} // ends watchConns
	wg      sync.WaitGroup
}

// New returns a server before b, which stays the caller's to close. Invalid options are an error that names the field.
func New(b *lb.Balancer, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h, err := b.Handler(o.Proxy)
	if err != nil {
		return nil, err
	}
	s := &Server{
		b: b, h: h, o: o, pool: b.Options(), trusted: o.Proxy.TrustedProxies,
		conns: map[*conn]struct{}{}, listens: map[net.Listener]struct{}{},
		ended: make(chan struct{}), stop: make(chan struct{}),
	}
	s.hedged = s.pool.Hedge.After > 0 || s.pool.Hedge.Quantile > 0
	a := s.pool.Adaptive
	s.custom = s.pool.Key != nil || s.pool.Retry.Idempotent != nil || o.Proxy.Sticky != nil ||
		a != nil && (a.Priority != nil || a.Exempt != nil)
	s.rest, s.whole = s.standard(0), s.standard(1)
	s.rest.SetKeepAlivesEnabled(false)
	return s, nil
}

// standard returns the http.Server for the i-th kind of connections that are handed over.
func (f *Server) standard(i int) *http.Server {
	f.handed[i] = &handover{conns: make(chan net.Conn), done: make(chan struct{})}
	return &http.Server{Handler: f.h, ReadHeaderTimeout: max(f.o.HeaderTimeout, 0),
		IdleTimeout:    max(f.o.IdleTimeout, 0),
		MaxHeaderBytes: f.o.MaxHeaderBytes, ErrorLog: f.o.ErrorLog}
}

// Serve answers the connections that l accepts until [Server.Shutdown], [Server.Close] (http.ErrServerClosed) or an
// error of l, and closes l. It may be called for several listeners.
func (f *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !f.begin(l) {
		return http.ErrServerClosed
	}
	defer f.forget(l)
	for {
		c, err := l.Accept()
		if err != nil {
			f.mu.Lock()
			closing := f.closing
			f.mu.Unlock()
			if closing {
				return http.ErrServerClosed
			}
			var temporary interface{ Temporary() bool } // out of descriptors: pause, don't die
			if errors.As(err, &temporary) && temporary.Temporary() {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		f.accepted(c)
	}
}

// accepted serves a connection that was accepted.
func (f *Server) accepted(c net.Conn) {
	_, secure := c.(*tls.Conn)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closing:
		c.Close()
	case secure || !f.plain():
		f.wg.Go(func() { f.hand(1, c) })
	default:
		fc := newConn(f, c)
		f.conns[fc] = struct{}{}
		f.wg.Go(fc.serve)
	}
}

// plain reports whether requests may be forwarded here: all backends speak HTTP/1.1, and none is hedged.
func (f *Server) plain() bool { return f.b.PlainHTTP() && !f.hedged }

// begin adds a listener; the first starts the goroutines. It returns false when the server is closing.
func (f *Server) begin(l net.Listener) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return false
	}
	f.listens[l] = struct{}{}
	if !f.started {
		f.started = true
		f.wg.Go(f.watchConns)
		f.wg.Go(func() { f.rest.Serve(f.handed[0]) })
		f.wg.Go(func() { f.whole.Serve(f.handed[1]) })
	}
	return true
}

func (f *Server) forget(l net.Listener) {
	f.mu.Lock()
	delete(f.listens, l)
	f.mu.Unlock()
}

// hand gives a connection to net/http.
func (f *Server) hand(to int, c net.Conn) {
	f.passed.Add(1)
	if h := f.handed[to]; !h.give(c) {
		c.Close()
	}
}

// Shutdown stops accepting, closes idle connections, lets requests end and then returns; when ctx ends first it returns
// ctx's error and what is left goes on. Upgraded connections are not waited for.
func (f *Server) Shutdown(ctx context.Context) error {
	f.shut()
	var err error
	select {
	case <-f.ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, f.rest.Shutdown(ctx), f.whole.Shutdown(ctx), f.finish(err == nil))
}

// Close ends all connections at once. It is idempotent.
func (f *Server) Close() error {
	f.shut()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
		if up := c.up.Load(); up != nil {
			up.Close()
		}
	}
	f.mu.Unlock()
	f.rest.Close()
	f.whole.Close()
	<-f.ended
	return f.finish(true)
}

// shut stops accepting and closes idle connections.
func (f *Server) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return
	}
	f.closing = true
	f.draining.Store(true) // before the states are looked at, as read looks at it after it has changed its own
	for l := range f.listens {
		l.Close()
	}
	for c := range f.conns {
		c.closeIdle()
	}
	if len(f.conns) == 0 {
		close(f.ended)
	}
}

// finish ends the goroutines of f itself, once no connection is left.
func (f *Server) finish(all bool) error {
	if !all {
		return nil
	}
	f.mu.Lock()
	select {
	case <-f.stop:
	default:
		close(f.stop)
		for _, h := range f.handed {
			h.Close()
		}
	}
	f.mu.Unlock()
	f.wg.Wait()
	return nil
}

// gone removes a connection that has ended or was handed over.
func (f *Server) gone(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	if f.closing && len(f.conns) == 0 {
		close(f.ended)
	}
}

// Stats returns counters; it is safe at any time.
func (f *Server) Stats() Stats {
	f.mu.Lock()
	n := len(f.conns)
	f.mu.Unlock()
	return Stats{Connections: int64(n), Requests: f.requests.Load(), HandedOver: f.passed.Load(),
		Refused: f.refused.Load(), Expired: f.expired.Load()}
}

func (f *Server) logf(format string, args ...any) {
	if f.o.ErrorLog != nil {
		f.o.ErrorLog.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// handover is a listener of connections that were accepted before.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }
