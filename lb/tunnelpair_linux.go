package lb

import (
	"sync"
	"syscall"
	"time"
)

// tunnelPair is a tunnel on a loop: two ends and a flow each way.
type tunnelPair struct {
	ends         [2]tunnelEnd  // client, backend
	flows        [2]tunnelFlow // from the client, from the backend
	active       time.Duration // when bytes last moved, since began
	look         time.Duration // when its idle time is looked at next
	before, next *tunnelPair   // in the loop's list
	over         bool
	done         func()
}

// tunnelEnd is a socket.
type tunnelEnd struct {
	fd      int
	pair    *tunnelPair
	in, out *tunnelFlow // that reads from it, that writes to it
}

func newTunnelPair(client, backend int, early []byte, done func()) *tunnelPair {
	p := &tunnelPair{done: done}
	p.flows = [2]tunnelFlow{{pair: p, from: client, to: backend}, {pair: p, from: backend, to: client}}
	p.ends = [2]tunnelEnd{{client, p, &p.flows[0], &p.flows[1]}, {backend, p, &p.flows[1], &p.flows[0]}}
	p.flows[0].rest = append(p.flows[0].rest, early...)
	return p
}

// tunnelFlow is one direction. It reads only when all was written that it had read: a slow reader stops the sender and
// costs one buffer at most.
//
// After data a socket is usually empty, and the read that would tell so is a sixth of a small exchange's cost. It may be
// left out when the buffer was not filled: what comes later is an event of its own. Not so an end, an error or urgent
// data that was there already: then (beyond) it reads until nothing is left.
type tunnelFlow struct {
	pair     *tunnelPair
	from, to int
	rest     []byte  // read but not written
	kept     *[]byte // the buffer that rest lies in; nil: none of the pool's
	ready    bool    // from may have something to read
	beyond   bool    // and more than data
	ended    bool    // from has ended, and to knows
	queued   bool    // in the loop's again
}

type flowState int

const (
	flowWaits  flowState = iota // for an event
	flowAgain                   // its share of the turn is used up
	flowEnded                   // just now
	flowFailed                  // and so the tunnel
)

const (
	loopBuffer = 64 << 10
	loopReads  = 4 // of a flow in a turn: others wait no longer than it takes to move 256 KiB for each that has so much
)

// loopBuffers are larger than the others: a loop has one, and a flow one only while its reader is slower than its sender.
var loopBuffers = sync.Pool{New: func() any { b := make([]byte, loopBuffer); return &b }}

// move reads and writes until there is nothing to read or no room to write, or the share of the turn is used up.
func (f *tunnelFlow) move(l *tunnelLoop) flowState {
	if len(f.rest) > 0 {
		n, err := writeNow(uintptr(f.to), f.rest)
		if err != nil && err != errAgain {
			return flowFailed
		}
		if n > 0 {
			f.pair.active = l.now
			f.rest = f.rest[n:]
		}
		if len(f.rest) > 0 {
			return flowWaits
		}
		f.release()
	}
	for reads := 0; f.ready; reads++ {
		if reads == loopReads {
			return flowAgain
		}
		buf := *l.buf
		n, err := readNow(uintptr(f.from), buf)
		switch {
		case err == errAgain:
			f.ready, f.beyond = false, false
			return flowWaits
		case err != nil:
			return flowFailed
		case n == 0:
			f.ready, f.ended = false, true
			syscall.Shutdown(f.to, syscall.SHUT_WR)
			return flowEnded
		}
		f.pair.active = l.now
		f.ready = n == len(buf) || f.beyond
		m, err := writeNow(uintptr(f.to), buf[:n])
		if err != nil && err != errAgain {
			return flowFailed
		}
		if m < n { // the buffer stays here, the loop takes another
			f.kept, f.rest = l.buf, buf[m:n]
			l.buf = loopBuffers.Get().(*[]byte)
			return flowWaits
		}
	}
	return flowWaits
}

// release gives the buffer back.
func (f *tunnelFlow) release() {
	if f.kept != nil {
		loopBuffers.Put(f.kept)
	}
	f.kept, f.rest = nil, nil
}

// tunnelList is a queue from whose middle a tunnel can be taken.
type tunnelList struct{ first, last *tunnelPair }

func (q *tunnelList) push(p *tunnelPair) {
	p.before, p.next = q.last, nil
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
}

func (q *tunnelList) remove(p *tunnelPair) {
	if p.before == nil {
		q.first = p.next
	} else {
		p.before.next = p.next
	}
	if p.next == nil {
		q.last = p.before
	} else {
		p.next.before = p.before
	}
	p.before, p.next = nil, nil
}
