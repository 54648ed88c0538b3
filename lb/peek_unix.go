//go:build unix

package lb

import "syscall"

// silent is true when the socket is open and has nothing to say.
func silent(fd uintptr) bool {
	_, err := peek(fd)
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
}

// hungUp is true when the other side has closed the socket and nothing is left to read.
func hungUp(fd uintptr) bool {
	n, err := peek(fd)
	return err == nil && n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EWOULDBLOCK
}

// peek is one recv that neither waits nor takes anything.
func peek(fd uintptr) (n int, err error) {
	var b [1]byte
	return peekNow(fd, b[:])
}
