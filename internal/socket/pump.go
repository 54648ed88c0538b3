package socket

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Join copies both ways until both sides have ended, one has failed, or nothing has moved for idle (zero: no limit),
// and closes both connections. It passes the end of one side on as a half close, so that protocols that rely on it
// work. It uses a second goroutine, which has ended when Join returns.
func Join(a, b net.Conn, idle time.Duration) {
	var activity activity
	var wg sync.WaitGroup
	one := func(dst, src net.Conn) {
		if err := newPump(dst, src, idle, &activity).run(); err != nil {
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

// activity is the time at which bytes last moved in either direction of a tunnel.
type activity struct{ last atomic.Int64 }

func (a *activity) mark() { a.last.Store(int64(Clock())) }

func (a *activity) within(d time.Duration) bool { return Clock()-time.Duration(a.last.Load()) < d }

// pump copies one direction. It takes a buffer only when there is something to read, so an idle tunnel holds none. A
// stream that fills every buffer is spliced by the kernel, which costs more than copying where there is little to move.
type pump struct {
	dst, src net.Conn
	raw      syscall.RawConn // of src; nil if it is no socket
	out      syscall.RawConn // of dst; nil if it is no socket
	idle     time.Duration
	act      *activity

	step   func(fd uintptr) bool
	push   func(fd uintptr) bool
	rest   []byte // to write
	failed error  // of writing
	full   int    // reads in a row that filled the buffer
	err    error
}

const fullBuffers = 4 // in a row until the kernel takes over

func newPump(dst, src net.Conn, idle time.Duration, act *activity) *pump {
	p := &pump{dst: dst, src: src, idle: idle, act: act}
	p.raw, p.out = Of(src), Of(dst)
	p.step, p.push = p.ready, p.room
	return p
}

// run copies until src ends, and then returns nil. A timeout counts only when the other direction was silent too.
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
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case IsTimeout(err) && p.act.within(p.idle):
			p.extend()
		default:
			return err
		}
	}
}

// extend moves the read deadline of src by the idle time.
func (p *pump) extend() {
	if p.idle > 0 {
		p.src.SetReadDeadline(time.Now().Add(p.idle))
	} else {
		p.src.SetReadDeadline(time.Time{})
	}
}

// ready moves what there is to read. It returns false to wait for more.
func (p *pump) ready(fd uintptr) (done bool) {
	for {
		buf := GetBuffer()
		n, err := ReadNow(fd, *buf)
		if n > 0 {
			err = p.moved((*buf)[:n])
		} else if err == nil {
			err = io.EOF
		}
		PutBuffer(buf)
		switch {
		case err == ErrAgain:
			return false
		case err != nil:
			p.err = err
			return true
		case p.full >= fullBuffers:
			return true
		}
	}
}

// moved writes b, which was read, to dst.
func (p *pump) moved(b []byte) error {
	p.act.mark()
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

// room writes as much of p.rest as it can. It returns false to wait for more room.
func (p *pump) room(fd uintptr) (done bool) {
	for len(p.rest) > 0 {
		n, err := WriteNow(fd, p.rest)
		p.rest = p.rest[n:]
		if err == ErrAgain {
			return false
		}
		if err != nil {
			p.failed = err
			return true
		}
	}
	return true
}

// copyOnce makes one read of src, which is no socket, and writes what it brought.
func (p *pump) copyOnce() error {
	buf := GetBuffer()
	defer PutBuffer(buf)
	n, err := p.src.Read(*buf)
	if n > 0 {
		if werr := p.moved((*buf)[:n]); werr != nil {
			return werr
		}
	}
	return err
}
