package geodns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// answerSize is the capacity that the largest UDP answer needs.
const answerSize = 4096

// serveTCP accepts connections; each has a goroutine that answers its queries in order (RFC 7766 allows pipelining).
func (s *Server) serveTCP() {
	for {
		c, err := s.tcp.AcceptTCP()
		if err != nil {
			if s.ending.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors
			continue
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
		group := from.Addr().Unmap().WithZone("")
		if group.Is6() {
			p, _ := group.Prefix(64)
			group = p.Addr()
		}
		if s.o.Gate != nil && !s.o.Gate() || !s.admit(c, group) {
			c.Close()
			continue
		}
		s.running.Go(func() {
			defer s.release(c, group)
			s.converse(c, from)
		})
	}
}

func (s *Server) admit(c *net.TCPConn, group netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Load() || len(s.conns) >= s.o.MaxTCP || s.from[group] >= s.o.MaxTCPAddr {
		return false
	}
	s.conns[c] = group
	s.from[group]++
	return true
}

func (s *Server) release(c *net.TCPConn, group netip.Addr) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.from[group]--; s.from[group] == 0 {
		delete(s.from, group)
	}
}

// converse answers the queries of one connection.
func (s *Server) converse(c *net.TCPConn, from netip.AddrPort) {
	in, out := make([]byte, 2+1024), make([]byte, 0, answerSize)
	w := s.worker()
	defer s.retire(w)
	for !s.ending.Load() {
		c.SetDeadline(time.Now().Add(s.o.TCPIdle))
		if _, err := io.ReadFull(c, in[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(in))
		if n < 12 {
			return
		}
		if n > len(in) {
			if n > 4096 { // no query is that long
				return
			}
			in = make([]byte, 4096)
		}
		if _, err := io.ReadFull(c, in[:n]); err != nil {
			return
		}
		answer := s.handle(w, in[:n], out, from, true)
		w.publish()
		if answer == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := c.Write(append(framed, answer...)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}
