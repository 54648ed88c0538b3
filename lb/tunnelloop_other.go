//go:build !linux

package lb

import (
	"net"
	"time"
)

// tunnelLoops need epoll: elsewhere each tunnel has its pumps, see join.
type tunnelLoops struct{}

func newTunnelLoops(time.Duration) *tunnelLoops { return &tunnelLoops{} }

func (*tunnelLoops) take(client, backend net.Conn, over func()) bool { return false }

func (*tunnelLoops) close() {}
