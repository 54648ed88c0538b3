package geodns

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const reusePort = true

// reuseControl lets several sockets share one port: the kernel spreads the clients over them.
func reuseControl(shared bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		if !shared {
			return nil
		}
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); e != nil {
			return e
		}
		return err
	}
}

// wantDestination asks the kernel to tell the address that each packet was sent to.
func wantDestination(raw syscall.RawConn) bool {
	ok := false
	raw.Control(func(fd uintptr) {
		e4 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		e6 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		ok = e4 == nil || e6 == nil
	})
	return ok
}

// replySource turns the control message of a packet into that of its answer, in place: the local address, and no
// interface, so that routing stays free.
func replySource(oob []byte) []byte {
	for len(oob) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0])) // the kernel's messages are aligned, and oob begins with one
		length := int(h.Len)
		if length < unix.CmsgLen(0) || length > len(oob) {
			return nil
		}
		level, typ := h.Level, h.Type
		data := oob[unix.CmsgLen(0):length]
		switch {
		case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(data) >= 12: // ifindex, spec_dst, addr
			clear(data[:4])
			return oob[:length]
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= 20: // addr, ifindex
			clear(data[16:20])
			return oob[:length]
		}
		step := unix.CmsgSpace(length - unix.CmsgLen(0))
		if step > len(oob) {
			return nil
		}
		oob = oob[step:]
	}
	return nil
}
