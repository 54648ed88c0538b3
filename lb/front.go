package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Front is an HTTP/1.1 server of the balancer's own, for when net/http's share of the work counts: less than half of
// what [Balancer.Handler] costs per request. It reads a request's head in place, refuses what two readers could
// understand differently, and sends it on by copying bytes. A request that is out of the ordinary (a body in chunks or
// above Retry.MaxBody, Upgrade, Expect, HTTP/1.0) is checked in the same way and then handed to an [http.Server] with
// the balancer's Handler, on the same connection, which ends with it: there is one behaviour. Connections of a TLS
// listener, and all of a balancer with Options.Hedge or with backends that are not "http", are that server's from the
// start.
//
// A client that leaves is noticed, and limits of time are kept, within about 0.1 s; a client that takes nothing of its
// answer for Timeouts.Idle is dropped.
//
// Use Handler where other handlers stand beside or around the balancer, or where TLS ends in this process; use Front
// for a tier that only balances. Refused with 400 and an end of the connection: folded lines, lines that end without
// CR, blanks before a colon, a Host or Content-Length that is missing where it must stand, stands twice or is
// malformed, and Content-Length together with Transfer-Encoding (RFC 9112 sections 2.2, 3.2, 5.1, 5.2 and 6.1).
type Front struct {
	b      *Balancer
	o      FrontOptions
	rest   *http.Server // one request a connection: it has passed our checks, the next would not
	whole  *http.Server // connections that are not ours at all
	handed [2]*handover // listeners of the two

	requests, passed, refused, expired atomic.Uint64
	now                                atomic.Uint32 // sweeps so far: the clock of all limits
	draining                           atomic.Bool   // closing, for those who do not take the lock

	mu      sync.Mutex // guards what follows
	conns   map[*frontConn]struct{}
	listens map[net.Listener]struct{}
	closing bool
	started bool
	ended   chan struct{} // closed when the last connection has ended after Shutdown began
	stop    chan struct{} // ends the lookout
	wg      sync.WaitGroup
}

// FrontOptions configure a [Front]. The zero value of every field is a good default; negative switches a limit off.
type FrontOptions struct {
	HeaderTimeout  time.Duration // from a request's first byte to the end of its head; 0: 10 s
	IdleTimeout    time.Duration // between two requests; 0: 2 minutes
	MaxHeaderBytes int           // of a request's head, beyond it 431; 0: 64 KiB; negative is an error
	ErrorLog       *log.Logger   // of the http.Server behind; nil: the log package's
}

// FrontStats are the counters of a [Front].
type FrontStats struct {
	Connections int    `metric:"front_connections,gauge,client connections that the front holds itself"`
	Requests    uint64 `metric:"front_requests_total,counter,requests that the front forwarded itself"`
	HandedOver  uint64 `metric:"front_handed_over_total,counter,requests and connections that net/http got"`
	Refused     uint64 `metric:"front_refused_total,counter,malformed requests"`
	Expired     uint64 `metric:"front_expired_total,counter,connections and requests ended by a limit of time"`
}

// NewFront returns a server over b, which stays the caller's to close. Invalid options are an error that names the
// field.
func NewFront(b *Balancer, o FrontOptions) (*Front, error) {
	if o.MaxHeaderBytes < 0 {
		return nil, fmt.Errorf("lb: FrontOptions.MaxHeaderBytes %d: want 0 or more", o.MaxHeaderBytes)
	}
	if o.MaxHeaderBytes == 0 {
		o.MaxHeaderBytes = 64 << 10
	}
	for _, d := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&o.HeaderTimeout, 10 * time.Second}, {&o.IdleTimeout, 2 * time.Minute}} {
		if *d.d == 0 {
			*d.d = d.def
		}
	}
	f := &Front{
		b: b, o: o, conns: map[*frontConn]struct{}{}, listens: map[net.Listener]struct{}{},
		ended: make(chan struct{}), stop: make(chan struct{}),
	}
	server := func(i int) *http.Server {
		f.handed[i] = &handover{conns: make(chan net.Conn), done: make(chan struct{})}
		return &http.Server{Handler: b.Handler(), ReadHeaderTimeout: max(o.HeaderTimeout, 0),
			IdleTimeout: max(o.IdleTimeout, 0), MaxHeaderBytes: o.MaxHeaderBytes, ErrorLog: o.ErrorLog}
	}
	f.rest, f.whole = server(0), server(1)
	f.rest.SetKeepAlivesEnabled(false)
	return f, nil
}

// Serve answers the connections that l accepts until [Front.Shutdown], [Front.Close] (http.ErrServerClosed) or an error
// of l, and closes l. It may be called for several listeners.
func (f *Front) Serve(l net.Listener) error {
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

func (f *Front) accepted(c net.Conn) {
	_, secure := c.(*tls.Conn)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closing:
		c.Close()
	case secure || !f.b.snap.Load().plain:
		f.wg.Go(func() { f.hand(1, c) })
	default:
		fc := newFrontConn(f, c)
		f.conns[fc] = struct{}{}
		f.wg.Go(fc.serve)
	}
}

func (f *Front) begin(l net.Listener) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return false
	}
	f.listens[l] = struct{}{}
	if !f.started {
		f.started = true
		f.wg.Go(f.lookout)
		f.wg.Go(func() { f.rest.Serve(f.handed[0]) })
		f.wg.Go(func() { f.whole.Serve(f.handed[1]) })
	}
	return true
}

func (f *Front) forget(l net.Listener) {
	f.mu.Lock()
	delete(f.listens, l)
	f.mu.Unlock()
}

// hand gives a connection to net/http.
func (f *Front) hand(to int, c net.Conn) {
	f.passed.Add(1)
	if h := f.handed[to]; !h.give(c) {
		c.Close()
	}
}

// Shutdown stops accepting, closes idle connections, lets requests end and then returns; when ctx ends first it returns
// ctx's error and what is left goes on. Upgraded connections are not waited for.
func (f *Front) Shutdown(ctx context.Context) error {
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
func (f *Front) Close() error {
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

// shut stops accepting and closes what is idle.
func (f *Front) shut() {
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
		c.leave()
	}
	if len(f.conns) == 0 {
		close(f.ended)
	}
}

// finish ends the goroutines of f itself, once no connection is left.
func (f *Front) finish(all bool) error {
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

// gone forgets a connection that has ended or was handed over.
func (f *Front) gone(c *frontConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	if f.closing && len(f.conns) == 0 {
		close(f.ended)
	}
}

// Stats returns counters; it is safe at any time.
func (f *Front) Stats() FrontStats {
	f.mu.Lock()
	n := len(f.conns)
	f.mu.Unlock()
	return FrontStats{Connections: n, Requests: f.requests.Load(), HandedOver: f.passed.Load(),
		Refused: f.refused.Load(), Expired: f.expired.Load()}
}

func (f *Front) logf(format string, args ...any) {
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
