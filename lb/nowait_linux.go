//go:build !386 && !s390x

package lb

import (
	"syscall"
	"unsafe"
)

const (
	canRead  = true
	errAgain = syscall.EAGAIN
)

// readNow is a read that does not wait: errAgain when there is nothing. The socket never blocks, so the scheduler need
// not be told of the call, which would cost a tenth of it, and more where processors are scarce. recv and send cost a
// small exchange 3 % less than read and write; where package syscall has no numbers for them, nowait_unix.go does.
func readNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.SYS_RECVFROM, fd, p, 0) }

// writeNow writes what there is room for; errAgain when there is none.
func writeNow(fd uintptr, p []byte) (n int, err error) {
	return nowait(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// peekNow is readNow that takes nothing, also from a socket that blocks.
func peekNow(fd uintptr, p []byte) (n int, err error) {
	return nowait(syscall.SYS_RECVFROM, fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
}

func nowait(call, fd uintptr, p []byte, flags uintptr) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		r, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
