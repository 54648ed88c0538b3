package assemble

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/tierkit/tierkit/geodns"
	"github.com/tierkit/tierkit/geodns/countries"
)

// nameServer is one authoritative server with a router and checks of its own: with the same configuration all of them
// give the same answers.
type nameServer struct {
	*node
	router *geodns.Router
	srv    *geodns.Server
}

// Coordinates of the centers: northern Virginia and Dublin.
var places = map[string][2]float64{East: {39.0, -77.5}, West: {53.3, -6.3}}

func (s *Stack) routerOptions(check bool) geodns.RouterOptions {
	o := geodns.RouterOptions{Locator: s.locator,
		Health: geodns.HealthOptions{Interval: probeEvery, Timeout: probeTimeout, Fall: probeFall, Rise: 2}}
	probe := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: (&net.Dialer{Timeout: probeTimeout}).DialContext}}
	for _, c := range s.centers {
		dc := geodns.DC{Name: c.name, Lat: places[c.name][0], Lon: places[c.name][1]}
		for _, e := range c.edges {
			dc.Addrs = append(dc.Addrs, e.ip)
		}
		if check {
			dc.CheckAddr = func(ctx context.Context, addr netip.Addr) error {
				req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+s.Dial(addr)+edgeHealth, nil)
				res, err := probe.Do(req)
				if err != nil {
					return err
				}
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					return fmt.Errorf("status %d", res.StatusCode)
				}
				return nil
			}
		}
		o.DCs = append(o.DCs, dc)
	}
	return o
}

func (s *Stack) startNames() error {
	s.locator = countries.Table()
	var err error
	if s.nearest, err = geodns.NewRouter(s.routerOptions(false)); err != nil {
		return err
	}
	for i := range 2 {
		n := &nameServer{node: newNode(fmt.Sprintf("ns%d", i+1), "dns", "")}
		o := s.routerOptions(true)
		if i == 0 {
			o.OnChange = func(c geodns.Change) {
				kind, state := "failure", "down"
				if c.Up {
					kind, state = "recovery", "up"
				}
				what := c.DC
				if c.Addr.IsValid() {
					what = fmt.Sprintf("edge %s of %s", c.Addr, c.DC)
				}
				s.Event(kind, fmt.Sprintf("name servers see %s: %s", what, state))
			}
		}
		if n.router, err = geodns.NewRouter(o); err != nil {
			return err
		}
		s.names = append(s.names, n)
		zone, err := geodns.NewZone("tierkit.example.",
			geodns.ZoneOptions{NS: []string{"ns1.tierkit.example.", "ns2.tierkit.example."}, NegativeTTL: ttl})
		if err != nil {
			return err
		}
		if err := zone.Geo("www", n.router, geodns.GeoOptions{TTL: ttl}); err != nil {
			return err
		}
		port := s.o.DNS
		if port != 0 {
			port += i
		}
		if n.srv, err = geodns.Listen(fmt.Sprintf("127.0.0.1:%d", port), []*geodns.Zone{zone}, geodns.ServerOptions{
			Sockets: 1, Gate: n.alive, OnQuery: func(geodns.Query) { n.requests.Add(1) },
		}); err != nil {
			return err
		}
	}
	return nil
}

// answersWith reports whether the name servers that are alive answer with an address.
func (s *Stack) answersWith(ip netip.Addr) bool {
	for _, n := range s.names {
		if !n.alive() {
			continue
		}
		for _, dc := range n.router.Snapshot() {
			for _, a := range dc.Addrs {
				if a.Addr == ip && a.Up {
					return true
				}
			}
		}
	}
	return false
}

func (n *nameServer) close() error {
	var err error
	if n.srv != nil {
		err = n.srv.Close()
	}
	if n.router != nil {
		n.router.Close()
	}
	return err
}
