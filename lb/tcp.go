package lb

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/socket"
)

// ServeTCP forwards the connections that l accepts, each to one backend, until ctx ends or l fails. It closes l. A
// backend that can't be connected to is passed over for another. A client's end is passed on as a half close, and so is
// a backend's. When ctx ends no more connections are accepted, those that run go on until they end or Options.TCPDrain
// is over, and then ServeTCP returns nil.
//
// On Linux tunnels between TCP sockets run on event loops, one fewer than GOMAXPROCS but at least one: such a tunnel
// has no goroutine, and no buffer unless its reader is slower than its sender; streams are spliced by the kernel. Other
// connections (TLS, those of the user's own types) and other systems take two goroutines each.
func (b *Balancer) ServeTCP(ctx context.Context, l net.Listener) error {
	if len(b.o.Proxy.Accept) > 0 {
		l = ProxyListener(l, b.o.Proxy.Accept)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	t := &tcpConns{live: map[net.Conn]struct{}{}, loops: newTunnelLoops(b.o.Timeouts.Tunnel)}
	defer t.drain(b.o.TCPDrain)
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
		t.add(c)
		go func() {
			defer t.remove(c)
			b.forward(ctx, c, t)
		}()
	}
}

// forward carries a connection to its end, or gives it away to a loop.
func (b *Balancer) forward(ctx context.Context, c net.Conn, t *tcpConns) {
	defer c.Close()
	k := Key{Priority: exempt}
	peer := addrOf(c.RemoteAddr()) // waits for a PROXY header, where there must be one
	if p, ok := c.(*proxiedConn); ok && p.err != nil {
		return
	}
	if peer.IsValid() {
		k.Hash, k.Keyed = hashAddr(peer.Addr()), true
	}
	a := b.Attempts(k)
	for a.Next(ctx) {
		lease := a.Pick
		start := time.Now()
		up, err := b.o.Dial(ctx, "tcp", lease.b.ep.Load().Addr)
		if err == nil && b.o.Proxy.Send != 0 {
			if _, err = up.Write(appendProxyHeader(nil, b.o.Proxy.Send, peer, addrOf(c.LocalAddr()))); err != nil {
				up.Close()
			}
		}
		if err == nil {
			latency := time.Since(start)
			t.open.Add(1)
			over := func() {
				lease.Done(Result{Latency: latency})
				t.open.Done()
			}
			if !t.loops.take(c, up, over) {
				socket.Join(c, up, b.o.Timeouts.Tunnel)
				over()
			}
			return
		}
		lease.Done(Result{Err: err, Ignored: ctx.Err() != nil})
		if !a.Again(err, ctx.Err() == nil) {
			return
		}
	}
}

// tcpConns are the connections of one ServeTCP.
type tcpConns struct {
	open  sync.WaitGroup // one for each that has a goroutine, and one for each tunnel
	loops *tunnelLoops
	mu    sync.Mutex            // guards live
	live  map[net.Conn]struct{} // those that have a goroutine
}

func (t *tcpConns) add(c net.Conn) {
	t.open.Add(1)
	t.mu.Lock()
	t.live[c] = struct{}{}
	t.mu.Unlock()
}

func (t *tcpConns) remove(c net.Conn) {
	t.mu.Lock()
	delete(t.live, c)
	t.mu.Unlock()
	t.open.Done()
}

// drain waits until all have ended, and ends them when that takes longer than limit.
func (t *tcpConns) drain(limit time.Duration) {
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
