//go:build !linux

package geodns

import (
	"errors"
	"net"
	"syscall"
)

const reusePort = false

func reuseControl(bool) func(network, address string, c syscall.RawConn) error { return nil }

// serveUDP answers the packets of the socket, one after the other. Here the kernel chooses the source of an answer:
// bind one address per server.
func (s *Server) serveUDP(c *net.UDPConn) {
	w := s.worker()
	defer s.retire(w)
	in, out := make([]byte, 4096), make([]byte, 0, answerSize)
	for {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if err != nil {
			if s.ending.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error of an earlier answer
		}
		answer := s.handle(w, in[:n], out, from, false)
		w.publish()
		if answer != nil {
			c.WriteToUDPAddrPort(answer, from)
		}
	}
}
