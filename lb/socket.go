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

func (s *socket) Read(p []byte) (int, error) {
	if s.raw == nil || len(p) == 0 {
		return s.Conn.Read(p)
	}
	t := &s.r
	t.p, t.n, t.err = p, 0, nil
	err := s.raw.Read(t.once)
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
	return &net.OpError{Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}
