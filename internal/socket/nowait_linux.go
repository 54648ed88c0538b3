//go:build !386 && !s390x

package socket

import (
	"syscall"
	"unsafe"
)

const canRead = true

// ErrAgain says that there is nothing to read, or no room to write.
const ErrAgain = syscall.EAGAIN

// ReadNow reads without waiting and returns ErrAgain when there is nothing. The socket never blocks, so the scheduler
// is not told of the call, which would cost a tenth of it, and more where processors are scarce. recv and send cost a
// small exchange 3 % less than read and write; nowait_unix.go serves where package syscall has no numbers for them.
func ReadNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.SYS_RECVFROM, fd, p, 0) }

// WriteNow writes as much of p as there is room for, and returns ErrAgain when there is none.
func WriteNow(fd uintptr, p []byte) (n int, err error) {
	return nowait(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// peekNow is ReadNow without taking the bytes. It does not wait on a blocking socket either.
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
