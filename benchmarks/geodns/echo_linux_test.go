package geodns

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// echoBatches answers every packet with itself, up to 32 per system call.
func echoBatches(c *net.UDPConn) {
	const size = 32
	type message struct {
		hdr unix.Msghdr
		n   uint32
	}
	var (
		msgs [size]message
		iovs [size]unix.Iovec
		name [size]unix.RawSockaddrInet6
		bufs [size][1500]byte
	)
	raw, err := c.SyscallConn()
	check(err)
	n, from := 0, 0
	read := func(fd uintptr) bool {
		got, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), size, 0, 0, 0)
		n = int(got)
		if e != 0 {
			n = 0
		}
		return e != unix.EAGAIN
	}
	write := func(fd uintptr) bool {
		for from < n {
			sent, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[from])), uintptr(n-from),
				0, 0, 0)
			if e == unix.EAGAIN {
				return false
			}
			from += max(1, int(int32(sent)))
		}
		return true
	}
	for i := range msgs {
		msgs[i].hdr.Name, msgs[i].hdr.Iov = (*byte)(unsafe.Pointer(&name[i])), &iovs[i]
		msgs[i].hdr.SetIovlen(1)
		iovs[i].Base = &bufs[i][0]
	}
	n = size
	for {
		for i := range n {
			msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
			iovs[i].SetLen(len(bufs[i]))
		}
		check(raw.Read(read))
		for i := range n {
			bufs[i][2] |= 0x80
			iovs[i].SetLen(int(msgs[i].n))
		}
		from = 0
		check(raw.Write(write))
	}
}
