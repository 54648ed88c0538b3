package geodns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// The whole way of a query but the socket: 0 allocations.
func BenchmarkHandle(b *testing.B) {
	s := server(b, ServerOptions{}, testZone(b, router(b, RouterOptions{Locator: table(b)})))
	from := netip.MustParseAddrPort("10.1.0.1:5353")
	for name, m := range map[string]*dns.Msg{"static": new(dns.Msg), "geo+ecs": new(dns.Msg),
		"nxdomain": new(dns.Msg)} {
		switch name {
		case "static":
			m.SetQuestion("www.example.test.", dns.TypeA)
		case "nxdomain":
			m.SetQuestion("none.example.test.", dns.TypeA)
		default:
			m.SetQuestion("geo.example.test.", dns.TypeA)
			subnet("10.2.0.0/16")(m)
		}
		packet, err := m.Pack()
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			w, out := s.worker(), make([]byte, 0, answerSize)
			b.ReportAllocs()
			for b.Loop() {
				s.handle(w, packet, out, from, false)
			}
		})
	}
}
