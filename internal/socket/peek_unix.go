//go:build unix

package socket

import "syscall"

// Quiet reports whether the socket is open and has nothing to read.
func Quiet(fd uintptr) bool {
	_, err := peek(fd)
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
}

// HungUp reports whether the peer has closed the socket and nothing is left to read.
func HungUp(fd uintptr) bool {
	n, err := peek(fd)
	return err == nil && n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EWOULDBLOCK
}

// peek makes one recv that neither waits nor takes anything.
func peek(fd uintptr) (n int, err error) {
	var b [1]byte
	return peekNow(fd, b[:])
}
