package lb

import (
	"io"
	"net"
	"os"
	"syscall"
)

// socketOf is the socket of a connection that is nothing else: a type of the user's around one may count or change what
// passes, also when it lends its methods.
func socketOf(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	if !canRead {
		return nil
	}
	return raw
}

// socket reads and writes with calls that never block, see readNow; the poller waits for them, with the connection's
// deadlines. One reader and one writer may use it at a time. Each direction's arguments are its own.
type socket struct {
	net.Conn
	raw  syscall.RawConn // nil: what Conn does
	r, w transfer
	question
}

// question is what the next read sends before it waits for the answer. The two are one turn at the socket: a read that
// came after a write of its own would look once in vain before it waits.
type question struct {
	rest []byte // not yet sent
	sent int    // bytes
}

type transfer struct {
	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool // bound once, so that a call costs no allocation
}

func (s *socket) init(c net.Conn) {
	s.Conn, s.raw = c, socketOf(c)
	s.r.once = func(fd uintptr) bool {
		if len(s.rest) > 0 {
			n, err := writeNow(fd, s.rest)
			s.sent, s.rest = s.sent+n, s.rest[n:]
			if err == nil && len(s.rest) > 0 {
				err = errAgain
			}
			if s.r.err = err; err != nil {
				return true
			}
			return false // an answer that is there already was announced after this turn began: it wakes
		}
		s.r.n, s.r.err = readNow(fd, s.r.p)
		return s.r.err != errAgain
	}
	s.w.once = func(fd uintptr) bool {
		for s.w.n < len(s.w.p) {
			n, err := writeNow(fd, s.w.p[s.w.n:])
			s.w.n += n
			if s.w.err = err; err != nil {
				return err != errAgain
			}
		}
		return true
	}
}

// ask leaves p, which must stay as it is until then, to the next Read to send.
func (s *socket) ask(p []byte) { s.question = question{rest: p} }

// unsent is whether nothing of what was asked has been sent.
func (s *socket) unsent() bool { return len(s.rest) > 0 && s.sent == 0 }

// Read sends what was left to it by ask; when it fails in that, it may be called no more.
func (s *socket) Read(p []byte) (int, error) {
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
		if t.err != errAgain {
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

func (s *socket) sendRest() error {
	if len(s.rest) == 0 {
		return nil
	}
	n, err := s.Write(s.rest)
	s.sent, s.rest = s.sent+n, s.rest[n:]
	return err
}

func (s *socket) Write(p []byte) (int, error) {
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

// failure is an error as the net package tells it.
func (s *socket) failure(op string, err error) error {
	return &net.OpError{Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(),
		Err: os.NewSyscallError(op, err)}
}
