package front

import (
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/socket"
)

// phase is what a front connection is doing, as watchConns sees it.
//
//	phase    waits for                    limit                            when it is over
//	idle     a request's first byte       Options.IdleTimeout         the client's connection is closed
//	reading  the rest of its head         Options.HeaderTimeout       the same
//	body     the rest of its short body   Timeouts.Idle                    the same
//	picking  a backend, a connection      QueueTimeout, Timeouts.Dial      (these watch themselves)
//	waiting  the answer's head            Timeouts.Header; client leaves   the backend's connection is closed
//	relaying more of the answer           Timeouts.Idle; client leaves     the same, and the answer is cut off
//	late     (left by watchConns alone: a limit was passed)
//	left     (left by watchConns alone: the client is gone)
//	closing  (left by Shutdown alone)
type phase uint32

const (
	phaseIdle phase = iota
	phaseReading
	phaseBody
	phasePicking
	phaseWaiting
	phaseRelaying
	phaseLate
	phaseLeft
	phaseClosing
)

// sweep is how often watchConns looks: the error of every limit, and how late a client's leaving is noticed. It costs
// a request nothing, where deadlines would cost several changes of timers.
const sweep = http1.Sweep

// watched is the phase and the sweep at which it was entered, in one word: whoever changes it knows what was before.
type watched struct{ word atomic.Uint64 }

// enter goes to the next phase and returns the one before, which watchConns may have changed.
func (w *watched) enter(p phase, now uint32) phase {
	return phase(w.word.Swap(uint64(p)<<32|uint64(now)) >> 32)
}

func (w *watched) load() (p phase, since uint32, word uint64) {
	word = w.word.Load()
	return phase(word >> 32), uint32(word), word
}

// change is for others than the connection's own goroutine: it fails when that went on meanwhile.
func (w *watched) change(word uint64, to phase) bool {
	return w.word.CompareAndSwap(word, uint64(to)<<32|word&0xffffffff)
}

// watchConns keeps all limits of time and notices clients that leave while they wait, until stop is closed.
func (f *Server) watchConns() {
	limits := [phaseLate]uint32{
		phaseIdle: sweeps(f.o.IdleTimeout), phaseReading: sweeps(f.o.HeaderTimeout),
		phaseBody:    sweeps(f.pool.Timeouts.Idle),
		phaseWaiting: sweeps(f.pool.Timeouts.Header), phaseRelaying: sweeps(f.pool.Timeouts.Idle),
	}
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	var conns []*conn
	for {
		select {
		case <-tick.C:
		case <-f.stop:
			return
		}
		now := f.now.Add(1)
		conns = conns[:0]
		f.mu.Lock()
		for c := range f.conns {
			conns = append(conns, c)
		}
		f.mu.Unlock()
		for _, c := range conns {
			c.look(now, &limits)
		}
		clear(conns)
	}
}

func sweeps(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(d/sweep) + 1
}

// look judges one connection. The backend's connection is loaded before the word is changed, and only a phase that was
// entered before this sweep is judged: so the change succeeds only while that connection is the one in use.
func (c *conn) look(now uint32, limits *[phaseLate]uint32) {
	p, since, word := c.state.load()
	if p >= phaseLate || now == since {
		return
	}
	up := c.up.Load()
	to := phaseLate
	if limit := limits[p]; limit == 0 || now-since < limit {
		if p != phaseWaiting && p != phaseRelaying || !c.hungUp() {
			return
		}
		to = phaseLeft
	}
	if !c.state.change(word, to) {
		return
	}
	if to == phaseLate {
		c.f.expired.Add(1)
	}
	if p < phasePicking || p == phaseRelaying {
		c.Close()
	}
	if up != nil {
		up.Close()
	}
}

// hungUp is whether the client has closed its side. Control, not Read: it must not wait for a reader.
func (c *conn) hungUp() (gone bool) {
	if c.under == nil {
		return false
	}
	err := c.under.Control(func(fd uintptr) { gone = socket.HungUp(fd) })
	return gone && err == nil
}
