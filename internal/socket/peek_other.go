//go:build !unix

package socket

import "errors"

// Quiet cannot look at a socket on this system and returns false: every connection is used once.
func Quiet(uintptr) bool { return false }

// HungUp cannot look at a socket on this system: a client that leaves is noticed when its answer is written.
func HungUp(uintptr) bool { return false }

const canRead = false

// ErrAgain says that there is nothing to read, or no room to write.
var ErrAgain = errors.New("socket: nothing to read")

// ReadNow is not available on this system; Of returns no socket to call it with.
func ReadNow(uintptr, []byte) (int, error) { return 0, ErrAgain }

// WriteNow is not available on this system.
func WriteNow(uintptr, []byte) (int, error) { return 0, ErrAgain }
