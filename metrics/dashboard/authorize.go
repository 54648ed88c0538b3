package dashboard

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
)

// forwardedHeaders are set by proxies. A request that has one comes from elsewhere, whatever its address.
var forwardedHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
	"X-Forwarded-Server", "X-Real-Ip", "Via", "Cf-Connecting-Ip", "True-Client-Ip"}

// FromThisMachine reports whether a request was made on this machine: it comes from a loopback address, names a
// loopback Host (so that a page of another site cannot read the dashboard by DNS rebinding), and no proxy has forwarded
// it. A proxy is known by the headers that it sets, by HTTP/1.0, which nginx speaks to what it forwards to, and by an
// Origin or Referer of another host. A proxy on the same machine that shows none of these cannot be told from a local
// client: set Options.Authorize where the dashboard's port can be reached through one.
func FromThisMachine(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() || !loopbackHost(r.Host) || !r.ProtoAtLeast(1, 1) {
		return false
	}
	for _, name := range forwardedHeaders {
		if len(r.Header[name]) > 0 {
			return false
		}
	}
	for _, name := range []string{"Origin", "Referer"} {
		if v := r.Header.Get(name); v != "" {
			if u, err := url.Parse(v); err != nil || !loopbackHost(u.Host) {
				return false
			}
		}
	}
	return true
}

// loopbackHost reports whether a host, with or without a port, is "localhost" or a loopback address.
func loopbackHost(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
