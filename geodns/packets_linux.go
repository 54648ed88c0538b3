package geodns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets one system call reads or writes. Under load the calls are what a name server spends its
// time on; with few clients a batch holds one packet and costs what a single read does.
const batchSize = 32

const (
	packetSize = 2048 // of a query: longer ones are cut by the kernel, and refused
	oobSize    = 128  // of one packet's control messages: its destination as IPv4 and as IPv6
)

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // bytes received or sent
}

// batch reads packets of one socket and writes their answers, many per system call, through the runtime's poller. An
// answer leaves from the address that its query was sent to: on a wildcard bind of a host with several addresses the
// kernel would choose another, and resolvers refuse such answers.
type batch struct {
	raw  syscall.RawConn
	dest bool // the kernel tells each packet's destination

	in   [batchSize]mmsghdr
	out  [batchSize]mmsghdr
	inv  [batchSize]unix.Iovec
	outv [batchSize]unix.Iovec
	name [batchSize]unix.RawSockaddrInet6 // large enough for either family
	oob  [batchSize][oobSize]byte
	buf  [batchSize][packetSize]byte
	room [batchSize][answerSize]byte

	// What the callbacks of raw read and write: they are made once, so that a call allocates nothing.
	got, from, end int
	errno          syscall.Errno
	recv, send     func(fd uintptr) bool
}

func newBatch(c *net.UDPConn) (*batch, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{raw: raw, got: batchSize}
	b.dest = c.LocalAddr().(*net.UDPAddr).IP.IsUnspecified() && wantDestination(raw)
	for i := range batchSize {
		b.inv[i].Base = &b.buf[i][0]
		b.inv[i].SetLen(packetSize)
		h := &b.in[i].hdr
		h.Name, h.Iov = (*byte)(unsafe.Pointer(&b.name[i])), &b.inv[i]
		h.SetIovlen(1)
		b.out[i].hdr.Iov = &b.outv[i]
		b.out[i].hdr.SetIovlen(1)
	}
	b.recv, b.send = b.receive, b.transmit
	return b, nil
}

// receive is the callback of read: false waits until the socket is readable.
func (b *batch) receive(fd uintptr) bool {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, 0, 0, 0)
		if e == unix.EINTR {
			continue
		}
		b.got, b.errno = int(n), e
		return e != unix.EAGAIN
	}
}

// read waits for packets and returns how many came.
func (b *batch) read() (int, error) {
	for i := range b.got { // the kernel changed these
		h := &b.in[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if b.dest {
			h.Control = &b.oob[i][0]
			h.SetControllen(oobSize)
		}
	}
	b.got = 0
	if err := b.raw.Read(b.recv); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		b.got = 0
		return 0, b.errno
	}
	return b.got, nil
}

// packet is the i-th that was read, and whom it is from. A packet that the kernel cut is nil.
func (b *batch) packet(i int) ([]byte, netip.AddrPort) {
	m := &b.in[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		return nil, netip.AddrPort{}
	}
	sa := &b.name[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return b.buf[i][:m.n], netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr),
			port)
	}
	return b.buf[i][:m.n], netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

// reply makes the k-th answer of this batch: data, to the sender of packet i.
func (b *batch) reply(k, i int, data []byte) {
	h, from := &b.out[k].hdr, &b.in[i].hdr
	h.Name, h.Namelen = from.Name, from.Namelen
	b.outv[k].Base = &data[0]
	b.outv[k].SetLen(len(data))
	h.Control = nil
	h.SetControllen(0)
	if b.dest {
		if control := replySource(b.oob[i][:from.Controllen]); control != nil {
			h.Control = &control[0]
			h.SetControllen(len(control))
		}
	}
}

// write sends the first n answers. One that can't be sent is left out: its client asks again.
func (b *batch) write(n int) {
	if b.from, b.end = 0, n; n > 0 {
		b.raw.Write(b.send)
	}
}

// transmit is the callback of write: false waits until the socket is writable.
func (b *batch) transmit(fd uintptr) bool {
	for b.from < b.end {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.from])),
			uintptr(b.end-b.from), 0, 0, 0)
		switch e {
		case 0:
			b.from += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.from++
		}
	}
	return true
}

// serveUDP answers the packets of one socket, one after the other: no goroutine per packet, so that a flood can't make
// them pile up.
func (s *Server) serveUDP(c *net.UDPConn) {
	w := s.worker()
	defer s.retire(w)
	b, err := newBatch(c)
	if err != nil { // closed meanwhile
		return
	}
	for {
		n, err := b.read()
		if err != nil && (s.ending.Load() || errors.Is(err, net.ErrClosed)) {
			return
		}
		k := 0
		for i := range n {
			packet, from := b.packet(i)
			if answer := s.handle(w, packet, b.room[k][:0], from, false); answer != nil {
				b.reply(k, i, answer)
				k++
			}
		}
		w.publish()
		b.write(k)
	}
}
