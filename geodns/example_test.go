package geodns_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/tierkit/tierkit/geodns"
)

func centers() []geodns.DC {
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
	router, err := geodns.NewRouter(geodns.RouterOptions{DCs: centers(), Locator: places()})
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
	router, _ := geodns.NewRouter(geodns.RouterOptions{DCs: centers(), Locator: places()})
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
		DCs: centers(), Locator: places(),
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

// Is a center's data fresh enough to take traffic?
func ExampleCaughtUp() {
	replicaLag := func(context.Context) (time.Duration, error) { return 42 * time.Second, nil } // ask your database
	check := geodns.AllOf(geodns.CaughtUp(replicaLag, 5*time.Second))
	fmt.Println(check(context.Background()))
	// Output: geodns: data is behind by 42s, more than 5s
}

// After a deployment: do all centers say the same?
func ExampleVerify() {
	center := func(version, page string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Version", version)
			fmt.Fprint(w, page)
		}))
	}
	us, eu := center("7", "new page"), center("6", "old page")
	defer us.Close()
	defer eu.Close()
	report, err := geodns.Verify(context.Background(),
		[]geodns.VerifyTarget{{Name: "us", URL: us.URL}, {Name: "eu", URL: eu.URL}},
		[]geodns.VerifyRequest{{Path: "/"}}, geodns.VerifyOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range report.Differences {
		fmt.Println(d.Request, d.What)
	}
	fmt.Println(report.Versions)
	// Output:
	// version
	// GET / body
	// map[eu:6 us:7]
}

func ExampleRouter_RouteAll() {
	router, _ := geodns.NewRouter(geodns.RouterOptions{DCs: centers(), Locator: places()})
	defer router.Close()
	for _, d := range router.RouteAll(netip.MustParseAddr("10.2.3.4"), 2) {
		fmt.Println(d.DC, d.Addrs)
	}
	// Output:
	// eu [198.51.100.1]
	// us [192.0.2.1]
}

// A zone whose answers are signed, and what its parent must hold.
func ExampleZone_Sign() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // keep it: all servers of the zone share it
	if err != nil {
		fmt.Println(err)
		return
	}
	zone, _ := geodns.NewZone("example.com.", geodns.ZoneOptions{NS: []string{"ns1.example.com."}})
	if err := zone.Sign(geodns.SignOptions{Key: key}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.Fields(zone.DS())[3]) // owner, TTL, class, DS, key tag, algorithm, digest type, digest
	// Output: DS
}

// The zone's own name can't be a CNAME; an alias can stand there.
func ExampleZone_Alias() {
	zone, _ := geodns.NewZone("example.com.", geodns.ZoneOptions{NS: []string{"ns1.example.com."}})
	zone.Add("www IN A 192.0.2.80", "@ IN MX 10 mail")
	fmt.Println(zone.Alias("@", "www"))
	// Output: <nil>
}
