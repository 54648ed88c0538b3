package geodns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/tierkit/tierkit/geodns"
)

func centres() []geodns.DC {
	return []geodns.DC{
		{Name: "us", Lat: 39, Lon: -77, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		{Name: "eu", Lat: 53, Lon: -6, Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
	}
}

func places() *geodns.Table {
	t, err := geodns.ReadCSV(strings.NewReader("10.1.0.0/16,NA,US,38,-90\n10.2.0.0/16,EU,DE,51,10\n"))
	if err != nil {
		panic(err)
	}
	return t
}

func Example() {
	router, err := geodns.NewRouter(geodns.RouterOptions{DCs: centres(), Locator: places()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer router.Close()
	zone, _ := geodns.NewZone("example.com.", geodns.ZoneOptions{NS: []string{"ns1.example.com."}})
	zone.Geo("www", router, geodns.GeoOptions{TTL: 30 * time.Second})
	server, err := geodns.Listen("127.0.0.1:0", []*geodns.Zone{zone}, geodns.ServerOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	q := new(dns.Msg)
	q.SetQuestion("www.example.com.", dns.TypeA)
	answer, err := dns.Exchange(q, server.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Answer[0])
	// Output: www.example.com.	30	IN	A	192.0.2.1
}

func ExampleRouter_Route() {
	router, _ := geodns.NewRouter(geodns.RouterOptions{DCs: centres(), Locator: places()})
	defer router.Close()
	d := router.Route(netip.MustParseAddr("10.2.3.4"))
	fmt.Println(d.DC, d.Addrs, d.Location.Country, d.Scope, d.Reason)
	router.Drain("eu")
	d = router.Route(netip.MustParseAddr("10.2.3.4"))
	fmt.Println(d.DC, d.Addrs, d.Location.Country, d.Reason)
	// Output:
	// eu [198.51.100.1] DE 10.2.0.0/16 policy
	// us [192.0.2.1] DE failover
}

func ExampleGeoMap() {
	router, _ := geodns.NewRouter(geodns.RouterOptions{
		DCs: centres(), Locator: places(),
		Policy: geodns.GeoMap(map[string]geodns.Policy{
			"continent:EU": geodns.Failover("eu"), // data must not leave
			"":             geodns.Weighted(),
		}),
		AllDown: geodns.FailClosed,
	})
	defer router.Close()
	fmt.Println(router.Route(netip.MustParseAddr("10.2.3.4")).DC)
	router.Drain("eu")
	fmt.Println(router.Route(netip.MustParseAddr("10.2.3.4")).Reason)
	// Output:
	// eu
	// all-down
}
