// Package clientaddr tells whose request it is when proxies stand in between.
package clientaddr

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Of is the address of the client of r: the connection's peer or, when that is in trusted, the last hop of
// X-Forwarded-For, read from its end, that is not. What stands before a hop that nobody trusted vouches for is never
// looked at. The zero Addr means that the peer is not known.
func Of(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := Peer(r)
	if !Within(trusted, addr) {
		return addr
	}
	for _, line := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for line != "" {
			var hop string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, hop = line[:i], line[i+1:]
			} else {
				line, hop = "", line
			}
			a, err := netip.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				return addr // not written by a proxy of ours: the last good hop stands
			}
			addr = a.Unmap().WithZone("")
			if !Within(trusted, addr) {
				return addr
			}
		}
	}
	return addr
}

// Peer is the other end of the connection.
func Peer(r *http.Request) netip.Addr {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

// Within is whether a is in one of nets.
func Within(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
