//go:build !linux

package geodns

import (
	"net"
	"syscall"
)

const reusePort = false

func reuseControl(bool) func(network, address string, c syscall.RawConn) error { return nil }

// Elsewhere the kernel chooses the source of an answer: bind one address per server there.
func wantDestination(*net.UDPConn) bool { return false }
func replySource([]byte) []byte         { return nil }
