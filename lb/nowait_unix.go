//go:build unix && (!linux || 386 || s390x)

package lb

import "syscall"

const (
	canRead  = true
	errAgain = syscall.EAGAIN
)

// readNow is a read that does not wait: errAgain when there is nothing.
func readNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.Read, fd, p) }

// writeNow writes what there is room for; errAgain when there is none.
func writeNow(fd uintptr, p []byte) (n int, err error) { return nowait(syscall.Write, fd, p) }

// peekNow is readNow that takes nothing, also from a socket that blocks.
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
