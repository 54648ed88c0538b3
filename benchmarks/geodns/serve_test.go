package geodns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/geodns"
	"github.com/tierkit/tierkit/geodns/countries"
)

// serve is a Go contender, in a process of its own on one core, until it is told to end.
func serve(role, addr string) {
	runtime.GOMAXPROCS(1)
	switch role {
	case "tierkit", "tierkit-reload":
		r, err := geodns.NewRouter(geodns.RouterOptions{Locator: countries.Table(), DCs: []geodns.DC{
			{Name: "us", Lat: 39, Lon: -77, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			{Name: "eu", Lat: 53, Lon: -6, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
			{Name: "ap", Lat: 1, Lon: 104, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.3")}},
		}})
		check(err)
		z, err := geodns.NewZone("example.test.", geodns.ZoneOptions{NS: []string{"ns1.example.test."}})
		check(err)
		check(z.Geo("geo", r, geodns.GeoOptions{}))
		for i := range hosts {
			check(z.Add(fmt.Sprintf("h%d IN A 10.0.%d.%d", i, i/256, i%256)))
		}
		s, err := geodns.Listen(addr, []*geodns.Zone{z}, geodns.ServerOptions{Sockets: 1})
		check(err)
		if role == "tierkit-reload" { // a thousand times in the two seconds of a round
			go func() {
				for range time.Tick(2 * time.Millisecond) {
					check(s.Update([]*geodns.Zone{z}))
				}
			}()
		}
	case "miekg":
		answers := map[string]dns.RR{}
		for i := range hosts {
			name := fmt.Sprintf("h%d.example.test.", i)
			rr, err := dns.NewRR(fmt.Sprintf("%s 3600 IN A 10.0.%d.%d", name, i/256, i%256))
			check(err)
			answers[name] = rr
		}
		pc, err := net.ListenPacket("udp", addr)
		check(err)
		go (&dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(q)
			if rr := answers[strings.ToLower(q.Question[0].Name)]; rr != nil {
				m.Answer = []dns.RR{rr}
			} else {
				m.Rcode = dns.RcodeNameError
			}
			w.WriteMsg(m)
		})}).ActivateAndServe()
	case "limit":
		go echoBatches(udp(addr))
	case "echo":
		go func() {
			c := udp(addr)
			b := make([]byte, 1500)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				check(err)
				b[2] |= 0x80
				c.WriteToUDPAddrPort(b[:n], from)
			}
		}()
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func udp(addr string) *net.UDPConn {
	pc, err := net.ListenPacket("udp", addr)
	check(err)
	c := pc.(*net.UDPConn)
	c.SetReadBuffer(4 << 20)
	return c
}
