package socket

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a connection that reads and writes its socket with calls that never block, see ReadNow, and waits for it in
// Go's poller, with the deadlines of the connection. A connection that is not a socket is used as it is. One goroutine
// may read while another writes.
type Conn struct {
	net.Conn
	raw  syscall.RawConn // nil: use Conn
	r, w transfer
	question
}

// question is what the next Read sends before it waits for the answer. Sending and waiting are one turn at the socket:
// a read after a separate write would look once in vain before it waits.
type question struct {
	rest []byte // not sent yet
	sent int    // bytes
}

// transfer holds the arguments and results of one direction.
type transfer struct {
	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool // bound by Init, so that a call does not allocate
}

// Init makes s read and write c. It must be called once, before all else.
func (s *Conn) Init(c net.Conn) {
	s.Conn, s.raw = c, Of(c)
	s.r.once = func(fd uintptr) bool {
		if len(s.rest) > 0 {
			n, err := WriteNow(fd, s.rest)
			s.sent, s.rest = s.sent+n, s.rest[n:]
			if err == nil && len(s.rest) > 0 {
				err = ErrAgain
			}
			if s.r.err = err; err != nil {
				return true
			}
			return false // wait: an answer that came meanwhile was announced after this turn began, and wakes
		}
		s.r.n, s.r.err = ReadNow(fd, s.r.p)
		return s.r.err != ErrAgain
	}
	s.w.once = func(fd uintptr) bool {
		for s.w.n < len(s.w.p) {
			n, err := WriteNow(fd, s.w.p[s.w.n:])
			s.w.n += n
			if s.w.err = err; err != nil {
				return err != ErrAgain
			}
		}
		return true
	}
}

// Ask leaves it to the next Read to send p, which must not change until that Read returns.
func (s *Conn) Ask(p []byte) { s.question = question{rest: p} }

// Unsent reports whether not a byte of what was given to Ask has been sent.
func (s *Conn) Unsent() bool { return len(s.rest) > 0 && s.sent == 0 }

// Read sends what Ask left to it, then reads. After an error of sending it must not be called again.
func (s *Conn) Read(p []byte) (int, error) {
	if s.raw == nil {
		if err := s.sendRest(); err != nil {
			return 0, err
		}
	}
	if s.raw == nil || len(p) == 0 {
		return s.Conn.Read(p)
	}
	t := &s.r
	t.p, t.n, t.err = p, 0, nil
	err := s.raw.Read(t.once)
	if err == nil && len(s.rest) > 0 {
		if t.err != ErrAgain {
			t.p = nil
			return 0, s.failure("write", t.err)
		}
		if err = s.sendRest(); err == nil { // there was no room for all of it
			err = s.raw.Read(t.once)
		}
	}
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case t.err != nil:
		return 0, s.failure("read", t.err)
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

func (s *Conn) sendRest() error {
	if len(s.rest) == 0 {
		return nil
	}
	n, err := s.Write(s.rest)
	s.sent, s.rest = s.sent+n, s.rest[n:]
	return err
}

// Write writes all of p, or returns an error.
func (s *Conn) Write(p []byte) (int, error) {
	if s.raw == nil {
		return s.Conn.Write(p)
	}
	t := &s.w
	t.p, t.n, t.err = p, 0, nil
	err := s.raw.Write(t.once)
	t.p = nil
	if err == nil && t.err != nil {
		err = s.failure("write", t.err)
	}
	return t.n, err
}

// failure returns err in the form that package net gives its errors.
func (s *Conn) failure(op string, err error) error {
	return &net.OpError{Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(),
		Err: os.NewSyscallError(op, err)}
}
