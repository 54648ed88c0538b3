// Package tcp forwards TCP connections to the backends of a balancer, with or without the PROXY protocol.
//
//	b, err := lb.New([]lb.Endpoint{{Addr: "10.0.0.1:5432"}, {Addr: "10.0.0.2:5432"}}, lb.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	s, err := tcp.New(b, tcp.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	l, err := net.Listen("tcp", ":5432")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(s.Serve(ctx, l))
package tcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/socket"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/lb"
)

// Options configure a [Server]. The zero value of every field is a good default.
type Options struct {
	// Accept lists the networks whose connections begin with a PROXY header, of either version: theirs must, and all
	// others are taken as they are. Empty means none.
	Accept []netip.Prefix
	// Send is the version of the PROXY header that is sent to backends: 1 or 2. Zero means none.
	Send int
	// IdleTimeout ends a connection on which nothing has moved for so long. Zero means 10 minutes; negative means no
	// limit.
	IdleTimeout time.Duration
	// Drain is how long Serve lets connections end on their own when it stops. Zero means 10 s; negative means that it
	// ends them at once.
	Drain time.Duration
	// Logger gets a warning, at most once a minute, when a connection finds no backend. Nil means slog.Default.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Send < 0 || o.Send > 2 {
		return o, fmt.Errorf("tcp: Options.Send %d: want 0, 1 or 2", o.Send)
	}
	for i, p := range o.Accept {
		if !p.IsValid() {
			return o, fmt.Errorf("tcp: Options.Accept[%d]: invalid prefix", i)
		}
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	o.IdleTimeout, o.Drain = max(o.IdleTimeout, 0), max(o.Drain, 0)
	return o, nil
}

// Stats are the counters of a [Server].
type Stats struct {
	Connections   uint64 `metric:"tcp_connections_total,counter,Connections that were accepted"`
	Failures      uint64 `metric:"tcp_failures_total,counter,Connections that found no backend"`
	LastError     string
	LastErrorTime time.Time
}

// Server forwards connections, each to one backend. It is safe for concurrent use.
type Server struct {
	b        *lb.Balancer
	o        Options
	log      *warn.Log
	accepted atomic.Uint64
	failures warn.Tally
}

// New returns a server before b, which stays the caller's to close. Invalid options are an error that names the field.
func New(b *lb.Balancer, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Server{b: b, o: o, log: warn.New(o.Logger)}, nil
}

// Stats returns the counters and the last failure. It is safe at any time.
func (s *Server) Stats() Stats {
	st := Stats{Connections: s.accepted.Load()}
	st.Failures, st.LastError, st.LastErrorTime = s.failures.Load()
	return st
}

// Serve forwards the connections that l accepts until ctx ends or l fails, and closes l. It tries another backend when
// one cannot be connected to. The end of one side is passed on as a half close. When ctx ends Serve accepts no more
// connections, lets those that run go on until they end or Options.Drain is over, and then returns nil.
//
// On Linux, tunnels between TCP sockets run on event loops, one fewer than GOMAXPROCS but at least one: such a tunnel
// has no goroutine, and no buffer unless its reader is slower than its sender; streams are spliced by the kernel. Other
// connections (TLS, those of the user's own types) and other systems take two goroutines each.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if len(s.o.Accept) > 0 {
		l = ProxyListener(l, s.o.Accept)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	t := &conns{live: map[net.Conn]struct{}{}, loops: newLoops(s.o.IdleTimeout)}
	defer t.drain(s.o.Drain)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var temporary interface{ Temporary() bool } // out of descriptors: pause, don't die
			if errors.As(err, &temporary) && temporary.Temporary() {
				select {
				case <-time.After(10 * time.Millisecond):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return err
		}
		s.accepted.Add(1)
		t.add(c)
		go func() {
			defer t.remove(c)
			s.forward(ctx, c, t)
		}()
	}
}

// forward carries a connection to its end, or hands it to a loop.
func (s *Server) forward(ctx context.Context, c net.Conn, t *conns) {
	defer c.Close()
	k := lb.Key{Exempt: true}
	peer := addrOf(c.RemoteAddr()) // waits for a PROXY header, where there must be one
	if p, ok := c.(*proxiedConn); ok && p.err != nil {
		return
	}
	if peer.IsValid() {
		k.Hash, k.Keyed = lb.KeyClient()(nil, peer.Addr())
	}
	a := s.b.Attempts(k)
	for a.Next(ctx) {
		start := time.Now()
		up, err := s.connect(ctx, a.Pick.Backend(), peer, c)
		if err == nil {
			latency, pick := time.Since(start), a.Pick
			t.open.Add(1)
			over := func() {
				pick.Done(lb.Result{Latency: latency})
				t.open.Done()
			}
			if !t.loops.take(c, up, over) {
				socket.Join(c, up, s.o.IdleTimeout)
				over()
			}
			return
		}
		if ctx.Err() != nil {
			a.Pick.Cancel(lb.Result{Err: err})
		} else {
			a.Pick.Done(lb.Result{Err: err})
		}
		if !a.Again(err, ctx.Err() == nil) {
			break
		}
	}
	if ctx.Err() == nil {
		s.failures.Add(a.Err)
		s.log.Warn("forward", "lb: a TCP connection found no backend", "error", a.Err)
	}
}

// connect opens a connection to a backend and sends the PROXY header, if there is to be one.
func (s *Server) connect(ctx context.Context, be *lb.Backend, peer netip.AddrPort, c net.Conn) (net.Conn, error) {
	up, err := be.Dial(ctx)
	if err != nil || s.o.Send == 0 {
		return up, err
	}
	if _, err := up.Write(appendProxyHeader(nil, s.o.Send, peer, addrOf(c.LocalAddr()))); err != nil {
		up.Close()
		return nil, err
	}
	return up, nil
}

// conns are the connections of one Serve.
type conns struct {
	open  sync.WaitGroup // one for each connection with a goroutine, and one for each tunnel
	loops *loops
	mu    sync.Mutex            // guards live
	live  map[net.Conn]struct{} // connections with a goroutine
}

func (t *conns) add(c net.Conn) {
	t.open.Add(1)
	t.mu.Lock()
	t.live[c] = struct{}{}
	t.mu.Unlock()
}

func (t *conns) remove(c net.Conn) {
	t.mu.Lock()
	delete(t.live, c)
	t.mu.Unlock()
	t.open.Done()
}

// drain waits until all have ended, and ends them when that takes longer than limit.
func (t *conns) drain(limit time.Duration) {
	drained := make(chan struct{})
	go func() { t.open.Wait(); close(drained) }()
	late := time.AfterFunc(limit, func() {
		t.mu.Lock()
		for c := range t.live {
			c.Close()
		}
		t.mu.Unlock()
		t.loops.close() // after these: what is given away from now on is closed already
	})
	<-drained
	late.Stop()
	t.loops.close()
}
