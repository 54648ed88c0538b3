//go:build unix && (!linux || 386 || s390x)

package socket

import "syscall"

const canRead = true

// ErrAgain says that there is nothing to read, or no room to write.
const ErrAgain = syscall.EAGAIN

// ReadNow reads without waiting and returns ErrAgain when there is nothing.
func ReadNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.Read, fd, p) }

// WriteNow writes as much of p as there is room for, and returns ErrAgain when there is none.
func WriteNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.Write, fd, p) }

// peekNow is ReadNow without taking the bytes. It does not wait on a blocking socket either.
func peekNow(fd uintptr, p []byte) (n int, err error) {
	return nowait(func(fd int, p []byte) (int, error) {
		n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	}, fd, p)
}

func nowait(call func(int, []byte) (int, error), fd uintptr, p []byte) (n int, err error) {
	for {
		if n, err = call(int(fd), p); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
