package tcp

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tierkit/tierkit/internal/socket"
)

// loops carry the tunnels between TCP sockets of one ServeTCP. A tunnel there costs no goroutine and, while it is
// silent, no buffer; a small exchange costs the reads and writes that it consists of. It stays on the loop that it was
// given to.
type loops struct {
	idle  time.Duration
	mu    sync.Mutex // guards what follows
	loops []*loop
	ended bool
}

func newLoops(idle time.Duration) *loops { return &loops{idle: idle} }

// take begins a tunnel between two sockets and owns them from then on; over is called in a goroutine of its own when it
// has ended. It refuses, and has touched nothing, what is not TCP on both sides.
func (t *loops) take(client, backend net.Conn, over func()) bool {
	var early []byte
	if p, ok := client.(*proxiedConn); ok { // its header was read
		client = p.Conn
		early, _ = p.br.Peek(p.br.Buffered())
	}
	c, ok := client.(*net.TCPConn)
	s, ok2 := backend.(*net.TCPConn)
	if !ok || !ok2 {
		return false
	}
	l := t.least()
	if l == nil {
		return false
	}
	defer l.load.Add(-1)
	a, ok := detach(c)
	if !ok {
		return false
	}
	b, ok := detach(s)
	if !ok {
		syscall.Close(a)
		return false
	}
	if !l.add(newPair(a, b, early, over)) {
		syscall.Close(a)
		syscall.Close(b)
		return false
	}
	c.Close() // the loop has the sockets by other descriptors
	s.Close()
	return true
}

// least is the loop with the fewest tunnels, counted on it by one until take is through. The first tunnel starts them.
func (t *loops) least() *loop {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil
	}
	if len(t.loops) == 0 {
		for range loopCount() {
			l, err := newLoop(t.idle)
			if err != nil {
				break
			}
			t.loops = append(t.loops, l)
			go l.run()
		}
	}
	var best *loop
	for _, l := range t.loops {
		if best == nil || l.load.Load() < best.load.Load() {
			best = l
		}
	}
	if best != nil {
		best.load.Add(1)
	}
	return best
}

// loopCount leaves a processor to what accepts and dials; two loops on two of them, beside the benchmark's client and
// backend, carried 0.8 of what one does.
func loopCount() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// close ends every tunnel; none begins after it.
func (t *loops) close() {
	t.mu.Lock()
	t.ended = true
	loops := t.loops
	t.mu.Unlock()
	for _, l := range loops {
		l.close()
	}
}

// detach is another descriptor of the socket, which Go's poller does not watch.
func detach(c *net.TCPConn) (fd int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, false
	}
	err = raw.Control(func(s uintptr) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, s, syscall.F_DUPFD_CLOEXEC, 0)
		fd, ok = int(n), errno == 0
	})
	return fd, ok && err == nil
}

// loop waits for the sockets of its tunnels and moves what they bring. All but the arrivals belongs to its
// goroutine.
//
// Sockets are watched edge-triggered, for everything, once: epoll_ctl is never called again. So whoever leaves bytes
// unread, or an end, must come back by itself: see flow.
type loop struct {
	epoll int
	idle  time.Duration // of a tunnel; 0: no limit
	load  atomic.Int64  // tunnels
	done  chan struct{}

	mu       sync.Mutex // guards what follows
	wake     int        // eventfd: arrivals or closing have changed
	arrivals []*pair
	closing  bool

	now   time.Duration // since began, of this turn
	ends  []*end        // by descriptor
	live  list          // in the order in which they are to be looked at
	again []*flow       // used up their share of the turn
	spare []*flow       // again's other array
	buf   *[]byte       // what one read takes
	pipe  *loopPipe     // what one splice takes; nil: none yet, or it was kept by a flow
}

const (
	loopEvents = 128
	onEdge     = syscall.EPOLLET & (1<<32 - 1) // some systems have it as a negative number
	anything   = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLPRI | onEdge
	beyondData = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR | syscall.EPOLLPRI
)

func newLoop(idle time.Duration) (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		syscall.Close(epoll)
		return nil, errno
	}
	l := &loop{epoll: epoll, wake: int(wake), idle: max(idle, 0), done: make(chan struct{}),
		buf: socket.GetBuffer()}
	if err := l.watch(l.wake, syscall.EPOLLIN|onEdge); err != nil {
		syscall.Close(epoll)
		syscall.Close(l.wake)
		return nil, err
	}
	return l, nil
}

func (l *loop) watch(fd int, events uint32) error {
	return syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

// add hands a tunnel over; false when the loop ends.
func (l *loop) add(p *pair) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.load.Add(1)
	l.arrivals = append(l.arrivals, p)
	if len(l.arrivals) == 1 {
		l.signal()
	}
	return true
}

// close ends the loop with its tunnels, and waits for it.
func (l *loop) close() {
	l.mu.Lock()
	if !l.closing {
		l.closing = true
		l.signal()
	}
	l.mu.Unlock()
	<-l.done
}

func (l *loop) signal() {
	one := [8]byte{0: 1, 7: 1} // a count, in either order of bytes
	syscall.Write(l.wake, one[:])
}

func (l *loop) run() {
	defer close(l.done)
	var events [loopEvents]syscall.EpollEvent
	for {
		n := l.wait(events[:])
		l.now = socket.Clock()
		arrived := false
		for i := range events[:n] {
			e := &events[i]
			if int(e.Fd) == l.wake {
				arrived = true
			} else if end := l.ends[e.Fd]; end != nil { // else it was closed in this turn
				l.onEvents(end, e.Events)
			}
		}
		l.resume()
		l.closeIdle()
		if arrived && !l.takeArrivals() { // last: a descriptor that was closed in this turn may be among them
			break
		}
	}
	for l.live.first != nil {
		l.end(l.live.first)
	}
	syscall.Close(l.wake)
	syscall.Close(l.epoll)
	socket.PutBuffer(l.buf)
	if l.pipe != nil {
		l.pipe.close()
	}
}

// wait returns the number of sockets to which something has onEvents.
func (l *loop) wait(events []syscall.EpollEvent) int {
	timeout := -1
	if first := l.live.first; len(l.again) > 0 {
		timeout = 0
	} else if l.idle > 0 && first != nil {
		timeout = int(min(max(0, first.look-socket.Clock()), time.Hour)/time.Millisecond) + 1
	}
	n, err := syscall.EpollWait(l.epoll, events, timeout)
	if err != nil { // EINTR
		return 0
	}
	return n
}

// takeArrivals takes the arrivals; false when the loop is to end, and then they are known too.
func (l *loop) takeArrivals() bool {
	l.mu.Lock()
	arrivals, closing := l.arrivals, l.closing
	l.arrivals = nil
	l.mu.Unlock()
	for _, p := range arrivals {
		p.active, p.look = l.now, l.now+l.idle/looksPerIdle
		l.live.push(p)
		for i := range p.ends {
			e := &p.ends[i]
			for len(l.ends) <= e.fd {
				l.ends = append(l.ends, nil)
			}
			l.ends[e.fd] = e
		}
		if l.watch(p.ends[0].fd, anything) != nil || l.watch(p.ends[1].fd, anything) != nil {
			l.end(p)
			continue
		}
		l.step(&p.flows[0]) // what came early
	}
	return !closing
}

// onEvents is told what epoll knows of an end.
func (l *loop) onEvents(e *end, events uint32) {
	p := e.pair
	if events&syscall.EPOLLOUT != 0 && e.out.stuck() && !l.step(e.out) {
		return
	}
	if events&(syscall.EPOLLIN|beyondData) == 0 {
		return
	}
	in := e.in
	if in.ended {
		if events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0 { // it takes no more either
			l.end(p)
		}
		return
	}
	in.ready = true
	in.beyond = in.beyond || events&beyondData != 0
	if !in.stuck() {
		l.step(in)
	}
}

// step moves what a flow has; false when that was the tunnel's end.
func (l *loop) step(f *flow) bool {
	switch f.move(l) {
	case flowFailed:
		l.end(f.pair)
		return false
	case flowEnded:
		if f.pair.flows[0].ended && f.pair.flows[1].ended {
			l.end(f.pair)
			return false
		}
	case flowAgain:
		if !f.queued {
			f.queued = true
			l.again = append(l.again, f)
		}
	}
	return true
}

// resume gives the flows that had more than their share of a turn another one.
func (l *loop) resume() {
	if len(l.again) == 0 {
		return
	}
	flows := l.again
	l.again = l.spare[:0]
	for _, f := range flows {
		f.queued = false
		if !f.pair.over {
			l.step(f)
		}
	}
	clear(flows)
	l.spare = flows
}

// closeIdle looks at each tunnel looksPerIdle times in its idle time, the error of the limit: it costs no timer, and
// nothing where bytes move.
func (l *loop) closeIdle() {
	for p := l.live.first; l.idle > 0 && p != nil && p.look <= l.now; p = l.live.first {
		if l.now-p.active >= l.idle {
			l.end(p)
			continue
		}
		l.live.remove(p)
		p.look = l.now + l.idle/looksPerIdle
		l.live.push(p)
	}
}

const looksPerIdle = 8

// end closes a tunnel, whatever it still holds.
func (l *loop) end(p *pair) {
	p.over = true
	for i := range p.ends {
		l.ends[p.ends[i].fd] = nil
		syscall.Close(p.ends[i].fd)
		p.flows[i].release()
	}
	l.live.remove(p)
	l.load.Add(-1)
	go p.done()
}

// hasPipe is false when there are no more descriptors for one.
func (l *loop) hasPipe() bool {
	if l.pipe == nil {
		l.pipe = newLoopPipe()
	}
	return l.pipe != nil
}

// takeBack gets an empty pipe.
func (l *loop) takeBack(p *loopPipe) {
	if l.pipe == nil {
		l.pipe = p
	} else {
		p.close()
	}
}
