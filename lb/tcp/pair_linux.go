package tcp

import (
	"syscall"
	"time"

	"github.com/tierkit/tierkit/internal/socket"
)

// pair is a tunnel on a loop: two ends and a flow each way.
type pair struct {
	ends         [2]end        // client, backend
	flows        [2]flow       // from the client, from the backend
	active       time.Duration // when bytes last moved, since began
	look         time.Duration // when its idle time is looked at next
	before, next *pair         // in the loop's list
	over         bool
	done         func()
}

// end is a socket.
type end struct {
	fd      int
	pair    *pair
	in, out *flow // that reads from it, that writes to it
}

func newPair(client, backend int, early []byte, done func()) *pair {
	p := &pair{done: done}
	p.flows = [2]flow{{pair: p, from: client, to: backend}, {pair: p, from: backend, to: client}}
	p.ends = [2]end{{client, p, &p.flows[0], &p.flows[1]}, {backend, p, &p.flows[1], &p.flows[0]}}
	p.flows[0].rest = append(p.flows[0].rest, early...)
	return p
}

// flow is one direction. It reads only when all was written that it had read: a slow reader stops the sender and
// costs one buffer or pipe at most.
//
// After data a socket is usually empty, and the read that would tell so is a sixth of a small exchange's cost. It may
// be left out when the buffer was not filled: what comes later is an event of its own. Not so an end, an error or
// urgent data that was there already: then (beyond) it reads until nothing is left.
//
// A stream that fills every buffer is spliced: twice as fast as copying there, and dearer where there is little to
// move.
type flow struct {
	pair     *pair
	from, to int
	rest     []byte    // read but not written
	kept     *[]byte   // the buffer that rest lies in; nil: none of the pool's
	pipe     *loopPipe // holds what is spliced but not written; nil: nothing
	full     int       // reads in a row that filled the buffer
	ready    bool      // from may have something to read
	beyond   bool      // and more than data
	ended    bool      // from has ended, and to knows
	queued   bool      // in the loop's again
}

type flowState int

const (
	flowWaits  flowState = iota // for an event
	flowAgain                   // its share of the turn is used up
	flowEnded                   // just now
	flowFailed                  // and so the tunnel
)

// loopReads are a flow's share of a turn, or one splice: others wait no longer than it takes to move this much for each
// that has it.
const loopReads = 4

// fullBuffers is how many reads in a row must fill the buffer before the kernel splices the stream.
const fullBuffers = 4

// stuck is true while something that was read waits for room.
func (f *flow) stuck() bool { return len(f.rest) > 0 || f.pipe != nil }

// move reads and writes until there is nothing to read or no room to write, or the share of the turn is used up.
func (f *flow) move(l *loop) flowState {
	if f.stuck() {
		if err := f.push(l); err == socket.ErrAgain {
			return flowWaits
		} else if err != nil {
			return flowFailed
		}
	}
	for reads := 0; f.ready; reads++ {
		if reads == loopReads {
			return flowAgain
		}
		var n int
		var err error
		if f.full < fullBuffers || !l.hasPipe() {
			n, err = f.copy(l)
		} else {
			n, err = f.splice(l)
			reads = loopReads - 1
		}
		switch {
		case err == socket.ErrAgain && n > 0: // no room
			return flowWaits
		case err == socket.ErrAgain:
			f.ready, f.beyond = false, false
			return flowWaits
		case err != nil:
			return flowFailed
		case n == 0:
			f.ready, f.ended = false, true
			syscall.Shutdown(f.to, syscall.SHUT_WR)
			return flowEnded
		}
	}
	return flowWaits
}

// copy reads once and writes that: socket.ErrAgain with bytes means that some of them wait for room, without that there
// were none.
func (f *flow) copy(l *loop) (int, error) {
	buf := *l.buf
	n, err := socket.ReadNow(uintptr(f.from), buf)
	if n == 0 {
		return 0, err
	}
	f.pair.active = l.now
	if f.full++; n < len(buf) {
		f.full, f.ready = 0, f.beyond
	}
	m, err := socket.WriteNow(uintptr(f.to), buf[:n])
	if m < n && (err == nil || err == socket.ErrAgain) { // the buffer stays here, the loop takes another
		f.kept, f.rest = l.buf, buf[m:n]
		l.buf = socket.GetBuffer()
		err = socket.ErrAgain
	}
	return n, err
}

// splice is copy without copying. Its short reads say nothing, so that it goes on until there is no more.
func (f *flow) splice(l *loop) (int, error) {
	n, err := l.pipe.fill(f.from)
	if err == socket.ErrAgain { // a pause, or urgent data, at which a splice stops
		f.full = 0
		return f.copy(l)
	}
	if n == 0 {
		return 0, err
	}
	f.pair.active = l.now
	if err = l.pipe.drain(f.to); err != nil { // the pipe stays here, the loop takes another
		f.pipe, l.pipe = l.pipe, nil
	}
	return n, err
}

// push writes what waits for room; socket.ErrAgain when some of it still does.
func (f *flow) push(l *loop) error {
	if f.pipe != nil {
		before := f.pipe.held
		err := f.pipe.drain(f.to)
		if f.pipe.held < before {
			f.pair.active = l.now
		}
		if err == nil {
			l.takeBack(f.pipe)
			f.pipe = nil
		}
		return err
	}
	n, err := socket.WriteNow(uintptr(f.to), f.rest)
	if n > 0 {
		f.pair.active = l.now
		f.rest = f.rest[n:]
	}
	switch {
	case err != nil:
		return err
	case len(f.rest) > 0:
		return socket.ErrAgain
	}
	f.release()
	return nil
}

// release gives up what waits for room.
func (f *flow) release() {
	if f.pipe != nil {
		f.pipe.close()
		f.pipe = nil
	}
	if f.kept != nil {
		socket.PutBuffer(f.kept)
	}
	f.kept, f.rest = nil, nil
}

// list is a queue from whose middle a tunnel can be taken.
type list struct{ first, last *pair }

func (q *list) push(p *pair) {
	p.before, p.next = q.last, nil
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
}

func (q *list) remove(p *pair) {
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
