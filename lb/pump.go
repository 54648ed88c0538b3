package lb

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// join copies both ways until both sides have ended, one has failed or nothing moved for idle. An end on one side is
// passed on as a half close, so that protocols that rely on it work. guard may be nil.
func join(a, b net.Conn, idle time.Duration, guard *pumpGuard) {
	var activity activity
	var wg sync.WaitGroup
	one := func(dst, src net.Conn) {
		p := newPump(dst, src, idle, &activity, guard)
		err := p.run()
		p.guard.remove(p)
		if err != nil {
			a.Close()
			b.Close()
			return
		}
		if h, ok := dst.(interface{ CloseWrite() error }); ok {
			h.CloseWrite()
		} else {
			dst.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	one(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// pump copies one direction. It reads as soon as there is something and takes a buffer only then, so that an idle
// tunnel holds none. A stream that fills every buffer is spliced by the kernel, which costs more than copying does where
// there is little to move.
//
// After data a socket is usually empty, so the read that finds this out is left out and the poller is asked at once (a
// sixth of a small exchange's cost). There is one case in which the poller stays silent: an end that came together with
// the data. A guard wakes up whoever waits in this way for longer than a sweep, and then it is looked at.
type pump struct {
	dst, src net.Conn
	raw      syscall.RawConn // of src; nil: it is no socket
	out      syscall.RawConn // of dst
	idle     time.Duration
	act      *activity
	guard    *pumpGuard // nil: always look

	step   func(fd uintptr) bool
	push   func(fd uintptr) bool
	rest   []byte // to write
	failed error  // of writing
	bursts int    // reads that found data
	full   int    // of these, in a row, those that filled the buffer
	err    error

	parked atomic.Uint32 // sweep at which it began to wait without a look; 0: it does not
	nudged atomic.Bool   // the guard has moved the deadline
}

const (
	provenBursts = 4 // a direction that carries less is not worth the guard's work
	fullBuffers  = 4 // in a row until the kernel takes over
)

func newPump(dst, src net.Conn, idle time.Duration, act *activity, guard *pumpGuard) *pump {
	p := &pump{dst: dst, src: src, idle: idle, act: act, guard: guard}
	p.raw, p.out = socketOf(src), socketOf(dst)
	p.step, p.push = p.ready, p.room
	guard.add(p)
	return p
}

// run returns nil at the end of src. A timeout counts only when the other direction was silent too.
func (p *pump) run() error {
	p.extend()
	for {
		var err error
		switch {
		case p.full >= fullBuffers: // up to 1 MiB at a time, so that the deadline moves
			p.full = 0
			p.extend()
			var n int64
			if n, err = io.CopyN(p.dst, p.src, 1<<20); n > 0 {
				p.act.mark()
			}
		case p.raw == nil:
			err = p.copyOnce()
		default:
			p.err = nil
			if err = p.raw.Read(p.step); err == nil {
				err = p.err
			}
			p.parked.Store(0)
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case isTimeout(err) && (p.nudged.Swap(false) || p.act.within(p.idle)):
			p.extend()
		default:
			return err
		}
	}
}

func (p *pump) extend() {
	if p.idle > 0 {
		p.src.SetReadDeadline(time.Now().Add(p.idle))
	} else {
		p.src.SetReadDeadline(time.Time{})
	}
}

// ready moves what there is; false waits for more.
func (p *pump) ready(fd uintptr) (done bool) {
	p.parked.Store(0)
	for {
		buf := buffers.Get().(*[]byte)
		n, err := readNow(fd, *buf)
		if n > 0 {
			err = p.moved((*buf)[:n])
		} else if err == nil {
			err = io.EOF
		}
		size := len(*buf)
		buffers.Put(buf)
		switch {
		case err == errAgain:
			return false
		case err != nil:
			p.err = err
			return true
		case p.full >= fullBuffers:
			return true
		case n < size && p.guard != nil && p.bursts > provenBursts:
			p.parked.Store(p.guard.now.Load())
			return false
		}
	}
}

func (p *pump) moved(b []byte) error {
	p.act.mark()
	p.bursts++
	if p.full++; len(b) < cap(b) {
		p.full = 0
	}
	if p.out == nil {
		_, err := p.dst.Write(b)
		return err
	}
	p.rest, p.failed = b, nil
	err := p.out.Write(p.push)
	p.rest = nil
	return errors.Join(err, p.failed)
}

// room writes what can be written; false waits for more room.
func (p *pump) room(fd uintptr) (done bool) {
	for len(p.rest) > 0 {
		n, err := writeNow(fd, p.rest)
		p.rest = p.rest[n:]
		if err == errAgain {
			return false
		}
		if err != nil {
			p.failed = err
			return true
		}
	}
	return true
}

func (p *pump) copyOnce() error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := p.src.Read(*buf)
	if n > 0 {
		if werr := p.moved((*buf)[:n]); werr != nil {
			return werr
		}
	}
	return err
}

// pumpGuard wakes up pumps that wait without having looked.
type pumpGuard struct {
	now  atomic.Uint32 // sweeps, from 1
	mu   sync.Mutex    // guards live
	live map[*pump]struct{}
	stop chan struct{}
	done chan struct{}
}

func newPumpGuard() *pumpGuard {
	g := &pumpGuard{live: map[*pump]struct{}{}, stop: make(chan struct{}), done: make(chan struct{})}
	g.now.Store(1)
	go g.run()
	return g
}

func (g *pumpGuard) add(p *pump) {
	if g != nil && p.raw != nil {
		g.mu.Lock()
		g.live[p] = struct{}{}
		g.mu.Unlock()
	}
}

func (g *pumpGuard) remove(p *pump) {
	if g != nil {
		g.mu.Lock()
		delete(g.live, p)
		g.mu.Unlock()
	}
}

func (g *pumpGuard) run() {
	defer close(g.done)
	tick := time.NewTicker(sweep / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.stop:
			return
		}
		now := g.now.Add(1)
		if now == 0 {
			g.now.Store(1)
		}
		g.mu.Lock()
		for p := range g.live {
			if since := p.parked.Load(); since != 0 && since != now && p.parked.CompareAndSwap(since, 0) {
				p.nudged.Store(true)
				p.src.SetReadDeadline(time.Unix(1, 0))
			}
		}
		g.mu.Unlock()
	}
}

func (g *pumpGuard) close() {
	close(g.stop)
	<-g.done
}
