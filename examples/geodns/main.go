// Command geodns shows a name server that sends users to the nearest healthy data center: three centers, two name
// servers with one configuration, questions from users all over the world, a center that dies under their eyes, and the
// same decision for an HTTP request.
//
//	go run ./examples/geodns
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/tierkit/tierkit/geodns"
	"github.com/tierkit/tierkit/geodns/countries"
)

func main() {
	serve := flag.String("serve", "", "serve example.test. on this address until interrupted, such as 127.0.0.1:5353")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(),
			"Shows a name server that sends users to the nearest healthy data center; takes about three seconds and needs nothing.\n\nusage: geodns [-serve ADDR]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*serve); err != nil {
		log.SetFlags(0)
		log.Fatal("geodns: ", err)
	}
}

var users = []struct{ place, subnet string }{
	{"New York", "128.122.0.0/16"}, {"Munich", "129.187.254.0/24"}, {"Tokyo", "133.11.0.0/16"},
	{"Sao Paulo", "143.107.0.0/16"},
	{"Sydney", "129.78.0.0/16"}, {"Lagos", "196.220.0.0/19"}, {"Delhi", "103.27.8.0/22"},
	{"Paris (IPv6)", "2001:660::/32"},
}

func run(serve string) error {
	var dublin atomic.Bool // whether it is dead
	router, err := geodns.NewRouter(geodns.RouterOptions{
		Locator: countries.Table(),
		DCs: []geodns.DC{
			{Name: "us-east", Lat: 39, Lon: -77, Addrs: addrs("192.0.2.10", "192.0.2.11")},
			{Name: "eu-west", Lat: 53, Lon: -6, Addrs: addrs("198.51.100.10", "198.51.100.11"),
				Check: func(context.Context) error {
					if dublin.Load() {
						return errors.New("connection refused")
					}
					return nil
				}},
			{Name: "ap-south", Lat: 1.3, Lon: 104, Addrs: addrs("203.0.113.10")},
		},
		Health:   geodns.HealthOptions{Interval: 100 * time.Millisecond},
		OnChange: func(c geodns.Change) { fmt.Printf("  event: %s up=%t (%s)\n", c.DC, c.Up, c.Why) },
	})
	if err != nil {
		return err
	}
	defer router.Close()
	zone, err := geodns.NewZone("example.test.",
		geodns.ZoneOptions{NS: []string{"ns1.example.test.", "ns2.example.test."}})
	if err != nil {
		return err
	}
	if err := zone.Add("ns1 IN A 127.0.0.1", "ns2 IN A 127.0.0.1", "@ IN MX 10 mail.example.test.",
		"blog IN CNAME www"); err != nil {
		return err
	}
	if err := zone.Geo("www", router, geodns.GeoOptions{TTL: time.Second}); err != nil {
		return err
	}
	var servers []*geodns.Server
	for _, addr := range []string{"127.0.0.1:0", "127.0.0.1:0", serve} {
		if addr == "" {
			continue
		}
		s, err := geodns.Listen(addr, []*geodns.Zone{zone}, geodns.ServerOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		servers = append(servers, s)
	}
	v4, v6 := countries.Table().Len()
	fmt.Printf("Two name servers on %v and %v; %d address ranges of %s.\n\n", servers[0].Addr(), servers[1].Addr(), v4+
		v6, countries.Date)
	if serve != "" {
		fmt.Printf("dig @%s -p %d www.example.test +subnet=129.187.254.0/24\n", servers[2].Addr().Addr(),
			servers[2].Addr().Port())
		<-servers[2].Done()
	}

	fmt.Println("Where www.example.test is, by where the question comes from:")
	show := func() error {
		for i, u := range users {
			answer, scope, err := ask(servers[i%2], "www.example.test.", u.subnet)
			if err != nil {
				return err
			}
			p := netip.MustParsePrefix(u.subnet)
			d := router.Route(p.Addr())
			fmt.Printf("  %-13s %-18s %-3s -> %-9s %-30s scope /%d\n", u.place, u.subnet, d.Location.Country, d.DC,
				answer, scope)
		}
		return nil
	}
	if err := show(); err != nil {
		return err
	}

	fmt.Println("\nThe center in Dublin dies:")
	start := time.Now()
	dublin.Store(true)
	for strings.HasPrefix(must(ask(servers[0], "www.example.test.", "129.187.254.0/24")), "198.51.100") {
		if time.Since(start) > 5*time.Second {
			return errors.New("no failover within 5 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Printf("  Munich is sent to %s after %d ms\n", must(ask(servers[0], "www.example.test.", "129.187.254.0/24")),
		time.Since(start).Milliseconds())
	dublin.Store(false)
	for router.Route(netip.MustParseAddr("129.187.254.1")).DC != "eu-west" {
		if time.Since(start) > 10*time.Second {
			return errors.New("no recovery")
		}
		time.Sleep(5 * time.Millisecond)
	}

	fmt.Println("\nWhere Munich goes when its center can't be reached, one after the other:")
	for _, d := range router.RouteAll(netip.MustParseAddr("129.187.254.1"), 3) {
		fmt.Printf("  %s %v\n", d.DC, d.Addrs)
	}

	fmt.Println("\nThe same router for HTTP, at the center in Virginia:")
	here, err := router.Redirect("us-east", map[string]string{"eu-west": "https://eu.example.test",
		"ap-south": "https://ap.example.test"},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "served here") }))
	if err != nil {
		return err
	}
	for _, u := range users[:3] {
		q := httptest.NewRequest("GET", "http://www.example.test/photo/7?size=small", nil)
		q.RemoteAddr = netip.AddrPortFrom(netip.MustParsePrefix(u.subnet).Addr().Next(), 999).String()
		w := httptest.NewRecorder()
		here.ServeHTTP(w, q)
		fmt.Printf("  %-13s %d %s%s\n", u.place, w.Code, w.Header().Get("Location"),
			strings.TrimSpace(strings.Split(w.Body.String(), "<")[0]))
	}
	fmt.Println("\nAfter a deployment, all centers are asked the same:")
	var targets []geodns.VerifyTarget
	for dc, version := range map[string]string{"us-east": "7", "eu-west": "7", "ap-south": "6"} {
		center := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Version", version)
			fmt.Fprint(w, "hello")
		}))
		defer center.Close()
		targets = append(targets, geodns.VerifyTarget{Name: dc, URL: center.URL})
	}
	report, err := geodns.Verify(context.Background(), targets, []geodns.VerifyRequest{{Path: "/"}},
		geodns.VerifyOptions{})
	if err != nil {
		return err
	}
	fmt.Println(" ", report.Err())

	st := servers[0].Stats()
	fmt.Printf("\n%d questions to the first server, %d with a client subnet.\n", st.Queries, st.ECS)
	return nil
}

func addrs(ss ...string) (out []netip.Addr) {
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// ask sends a question as a resolver would that serves users in subnet.
func ask(s *geodns.Server, name, subnet string) (answer string, scope int, err error) {
	p := netip.MustParsePrefix(subnet)
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)
	ecs := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()),
		Address: p.Addr().AsSlice()}
	if p.Addr().Is6() {
		ecs.Family = 2
	}
	m.IsEdns0().Option = []dns.EDNS0{ecs}
	res, err := dns.Exchange(m, s.Addr().String())
	if err != nil {
		return "", 0, err
	}
	for _, o := range res.IsEdns0().Option {
		if e, ok := o.(*dns.EDNS0_SUBNET); ok {
			scope = int(e.SourceScope)
		}
	}
	var out []string
	for _, rr := range res.Answer {
		out = append(out, rr.(*dns.A).A.String())
	}
	return strings.Join(out, " "), scope, nil
}

func must(answer string, _ int, err error) string {
	if err != nil {
		return err.Error()
	}
	return answer
}
