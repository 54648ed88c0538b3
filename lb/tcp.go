package lb

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// ServeTCP forwards the connections that l accepts, each to one backend, until ctx ends or l fails. It closes l. A
// backend that can't be connected to is passed over for another. Between TCP sockets the kernel moves the bytes
// (splice). When ctx ends no more connections are accepted, those that run go on until they end or Drain, and then
// ServeTCP returns nil.
func (b *Balancer) ServeTCP(ctx context.Context, l net.Listener) error {
	if len(b.o.Proxy.Accept) > 0 {
		l = ProxyListener(l, b.o.Proxy.Accept)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	guard := newPumpGuard()
	defer guard.close()
	var conns sync.WaitGroup
	live := &liveSet{m: map[net.Conn]struct{}{}}
	defer func() {
		drained := make(chan struct{})
		go func() { conns.Wait(); close(drained) }()
		limit := time.NewTimer(b.o.TCPDrain)
		defer limit.Stop()
		select {
		case <-drained:
		case <-limit.C:
			live.closeAll()
			<-drained
		}
	}()
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
		live.add(c)
		conns.Go(func() {
			defer live.remove(c)
			b.forward(ctx, c, guard)
		})
	}
}

func (b *Balancer) forward(ctx context.Context, c net.Conn, guard *pumpGuard) {
	defer c.Close()
	k := Key{Priority: exempt}
	peer := addrOf(c.RemoteAddr()) // waits for a PROXY header, where there must be one
	if p, ok := c.(*proxiedConn); ok && p.err != nil {
		return
	}
	if peer.IsValid() {
		k.Hash, k.Keyed = hashAddr(peer.Addr()), true
	}
	var avoid tried
	for {
		lease, err := b.pick(ctx, k, avoid)
		if err != nil {
			return
		}
		start := time.Now()
		up, err := b.o.Dial(ctx, "tcp", lease.b.ep.Load().Addr)
		if err == nil && b.o.Proxy.Send != 0 {
			if _, err = up.Write(appendProxyHeader(nil, b.o.Proxy.Send, peer, addrOf(c.LocalAddr()))); err != nil {
				up.Close()
			}
		}
		if err == nil {
			latency := time.Since(start)
			join(c, up, b.o.Timeouts.Tunnel, guard)
			lease.Done(Result{Latency: latency})
			return
		}
		lease.Done(Result{Err: err, Ignored: ctx.Err() != nil})
		if ctx.Err() != nil || len(avoid) >= b.o.Retry.Max || !b.budget.spend() {
			return
		}
		b.retries.Add(1)
		avoid = append(avoid, lease.b)
	}
}

// liveSet knows the open connections, so that a drain can end.
type liveSet struct {
	mu sync.Mutex // guards m
	m  map[net.Conn]struct{}
}

func (s *liveSet) add(c net.Conn) {
	s.mu.Lock()
	s.m[c] = struct{}{}
	s.mu.Unlock()
}

func (s *liveSet) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.m, c)
	s.mu.Unlock()
}

func (s *liveSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.m {
		c.Close()
	}
}
