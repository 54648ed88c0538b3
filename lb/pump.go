package lb

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// join copies both ways until both sides have ended, one has failed or nothing moved for idle. An end on one side is
// passed on as a half close, so that protocols that rely on it work.
func join(a, b net.Conn, idle time.Duration) {
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

// pump copies one direction. It reads as soon as there is something and takes a buffer only then, so that an idle
// tunnel holds none. A stream that fills every buffer is spliced by the kernel, which costs more than copying does
// where there is little to move.
//
// TCP between sockets has loops for this on Linux, see tunnelLoops; pumps carry the rest: TLS, connections of the
// user's own types, upgraded HTTP, other systems.
type pump struct {
	dst, src net.Conn
	raw      syscall.RawConn // of src; nil: it is no socket
	out      syscall.RawConn // of dst
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
	p.raw, p.out = socketOf(src), socketOf(dst)
	p.step, p.push = p.ready, p.room
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
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case isTimeout(err) && p.act.within(p.idle):
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
	for {
		buf := buffers.Get().(*[]byte)
		n, err := readNow(fd, *buf)
		if n > 0 {
			err = p.moved((*buf)[:n])
		} else if err == nil {
			err = io.EOF
		}
		buffers.Put(buf)
		switch {
		case err == errAgain:
			return false
		case err != nil:
			p.err = err
			return true
		case p.full >= fullBuffers:
			return true
		}
	}
}

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
