// Package geodns sends every user to the nearest healthy data center, by DNS and by HTTP.
//
// One data center is not enough, or it dies: give the name of your site to this authoritative name server. A [Router]
// knows where clients are, which center is near them and which centers and addresses are healthy; a [Server] answers
// DNS with what the router decides, and the same router picks a center for an HTTP request.
//
//	package main
//
//	import (
//		"log"
//		"net/netip"
//		"time"
//
//		"github.com/tierkit/tierkit/geodns"
//		"github.com/tierkit/tierkit/geodns/countries"
//	)
//
//	func main() {
//		r, err := geodns.NewRouter(geodns.RouterOptions{
//			Locator: countries.Table(),
//			DCs: []geodns.DC{
//				{Name: "us-east", Lat: 39, Lon: -77, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
//				{Name: "eu-west", Lat: 53, Lon: -6, Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
//			},
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		zone, _ := geodns.NewZone("example.com.", geodns.ZoneOptions{NS: []string{"ns1.example.com."}})
//		zone.Geo("www", r, geodns.GeoOptions{TTL: 30 * time.Second})
//		srv, err := geodns.Listen(":53", []*geodns.Zone{zone}, geodns.ServerOptions{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		<-srv.Done()
//	}
//
// DNSSEC is an option of a zone: [Zone.Sign].
package geodns
