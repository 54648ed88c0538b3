package geodns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

const zoneFile = `$TTL 3600
@    IN SOA ns1.example.test. hostmaster.example.test. 7 3600 600 604800 30
@    IN NS  ns1
@    IN NS  ns2.elsewhere.test.
@    IN MX  10 mail
ns1  IN A   192.0.2.53
mail IN A   192.0.2.25
mail IN AAAA 2001:db8::25
www  300 IN A 192.0.2.80
alias IN CNAME www
chain IN CNAME alias
away  IN CNAME www.elsewhere.test.
dead  IN CNAME nothing
loop  IN CNAME loop
*.wild IN A 192.0.2.77
*.wild IN TXT "star"
a.b.ent IN A 192.0.2.9
txt  IN TXT "hello world" "x"
srv  IN SRV 1 2 443 mail
caa  IN CAA 0 issue "ca.example"
svc  IN HTTPS 1 . alpn=h2
sub  IN NS ns.sub
sub  IN NS ns2.elsewhere.test.
ns.sub IN A 192.0.2.99
big  IN TXT "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
`

func testZone(t testing.TB, r *Router) *Zone {
	z, err := ParseZone("example.test.", strings.NewReader(zoneFile), "test")
	require.NoError(t, err)
	for i := range 20 {
		require.NoError(t, z.Add(fmt.Sprintf(`big IN TXT "%s %d"`, strings.Repeat("x", 100), i)))
	}
	if r != nil {
		require.NoError(t, z.Geo("geo", r, GeoOptions{TTL: time.Second}))
		require.NoError(t, z.Geo("@", r, GeoOptions{}))
		require.NoError(t, z.Geo("*.geo", r, GeoOptions{N: 1}))
		require.NoError(t, z.Geo("few", r, GeoOptions{N: 4, Centers: 3}))
	}
	return z
}

func server(t testing.TB, o ServerOptions, zones ...*Zone) *Server {
	s, err := Listen("127.0.0.1:0", zones, o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func ask(t testing.TB, s *Server, network, name string, typ uint16, tune ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	for _, f := range tune {
		f(m)
	}
	c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	res, _, err := c.Exchange(m, s.Addr().String())
	require.NoError(t, err)
	require.Equal(t, m.Question, res.Question)
	return res
}

func subnet(cidr string) func(*dns.Msg) {
	return func(m *dns.Msg) {
		p := netip.MustParsePrefix(cidr)
		m.SetEdns0(1232, false)
		family := uint16(1)
		if p.Addr().Is6() {
			family = 2
		}
		m.IsEdns0().Option = append(m.IsEdns0().Option,
			&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: uint8(p.Bits()),
				Address: p.Addr().AsSlice()})
	}
}

func edns(m *dns.Msg) { m.SetEdns0(4096, true) }

func scope(m *dns.Msg) int {
	for _, o := range m.IsEdns0().Option {
		if e, ok := o.(*dns.EDNS0_SUBNET); ok {
			return int(e.SourceScope)
		}
	}
	return -1
}

func data(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		out = append(out, f[3]+" "+strings.Join(f[4:], " "))
	}
	sort.Strings(out)
	return strings.Join(out, "; ")
}

func TestAnswers(t *testing.T) {
	s := server(t, ServerOptions{}, testZone(t, nil))
	for _, c := range []struct {
		name  string
		typ   uint16
		rcode int
		an    string
		ns    string // type of the authority section's first record
		aa    bool
	}{
		{"www.example.test.", dns.TypeA, 0, "A 192.0.2.80", "", true},
		{"WwW.eXample.tesT.", dns.TypeA, 0, "A 192.0.2.80", "", true},
		{"www.example.test.", dns.TypeAAAA, 0, "", "SOA", true},
		{"none.example.test.", dns.TypeA, dns.RcodeNameError, "", "SOA", true},
		{"x.www.example.test.", dns.TypeA, dns.RcodeNameError, "", "SOA", true},
		{"ent.example.test.", dns.TypeA, 0, "", "SOA", true},
		{"b.ent.example.test.", dns.TypeTXT, 0, "", "SOA", true},
		{"c.ent.example.test.", dns.TypeA, dns.RcodeNameError, "", "SOA", true},
		{"alias.example.test.", dns.TypeA, 0, "A 192.0.2.80; CNAME www.example.test.", "", true},
		{"chain.example.test.", dns.TypeA, 0, "A 192.0.2.80; CNAME alias.example.test.; CNAME www.example.test.", "",
			true},
		{"chain.example.test.", dns.TypeCNAME, 0, "CNAME alias.example.test.", "", true},
		{"chain.example.test.", dns.TypeAAAA, 0, "CNAME alias.example.test.; CNAME www.example.test.", "SOA", true},
		{"away.example.test.", dns.TypeA, 0, "CNAME www.elsewhere.test.", "", true},
		{"dead.example.test.", dns.TypeA, dns.RcodeNameError, "CNAME nothing.example.test.", "SOA", true},
		{"any.thing.wild.example.test.", dns.TypeA, 0, "A 192.0.2.77", "", true},
		{"q.wild.example.test.", dns.TypeMX, 0, "", "SOA", true},
		{"wild.example.test.", dns.TypeA, 0, "", "SOA", true},
		{"example.test.", dns.TypeNS, 0, "NS ns1.example.test.; NS ns2.elsewhere.test.", "", true},
		{"example.test.", dns.TypeMX, 0, "MX 10 mail.example.test.", "", true},
		{"txt.example.test.", dns.TypeTXT, 0, `TXT "hello world" "x"`, "", true},
		{"srv.example.test.", dns.TypeSRV, 0, "SRV 1 2 443 mail.example.test.", "", true},
		{"caa.example.test.", dns.TypeCAA, 0, `CAA 0 issue "ca.example"`, "", true},
		{"svc.example.test.", dns.TypeHTTPS, 0, `HTTPS 1 . alpn="h2"`, "", true},
		{"x.sub.example.test.", dns.TypeA, 0, "", "NS", false},
		{"sub.example.test.", dns.TypeNS, 0, "", "NS", false},
		{"example.test.", dns.TypeAXFR, dns.RcodeRefused, "", "", false},
		{"other.test.", dns.TypeA, dns.RcodeRefused, "", "", false},
		{"test.", dns.TypeA, dns.RcodeRefused, "", "", false},
		{".", dns.TypeNS, dns.RcodeRefused, "", "", false},
		{"www.example.test.", dns.TypeANY, 0, `HINFO "RFC8482" ""`, "", true},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if c.typ == dns.TypeAXFR && network == "tcp" {
				continue // the client library reads a transfer otherwise
			}
			res := ask(t, s, network, c.name, c.typ)
			what := fmt.Sprint(network, " ", c.name, " ", dns.TypeToString[c.typ])
			require.Equal(t, c.rcode, res.Rcode, what)
			require.Equal(t, c.an, data(res.Answer), what)
			require.Equal(t, c.aa, res.Authoritative, what)
			if c.ns == "" {
				require.Empty(t, res.Ns, what)
			} else {
				require.Equal(t, c.ns, dns.TypeToString[res.Ns[0].Header().Rrtype], what)
			}
			if c.ns == "SOA" {
				require.EqualValues(t, 30, res.Ns[0].Header().Ttl, "the lower of the SOA's TTL and its minimum")
				require.Equal(t, "example.test.", strings.ToLower(res.Ns[0].Header().Name))
			}
			for _, rr := range res.Answer {
				if rr.Header().Name != res.Question[0].Name && len(res.Answer) == 1 {
					t.Fatalf("%s: the owner %s does not echo the question", what, rr.Header().Name)
				}
			}
		}
	}
	res := ask(t, s, "udp", "example.test.", dns.TypeMX)
	require.Equal(t, "A 192.0.2.25; AAAA 2001:db8::25", data(res.Extra))
	res = ask(t, s, "udp", "deep.sub.example.test.", dns.TypeA)
	require.Equal(t, "A 192.0.2.99", data(res.Extra), "glue")
	require.Len(t, res.Ns, 2)
	res = ask(t, s, "udp", "loop.example.test.", dns.TypeA)
	require.LessOrEqual(t, len(res.Answer), 10)
}

func TestTruncationAndSizes(t *testing.T) {
	s := server(t, ServerOptions{}, testZone(t, nil))
	res := ask(t, s, "udp", "big.example.test.", dns.TypeTXT)
	require.True(t, res.Truncated)
	require.Empty(t, res.Answer)
	res = ask(t, s, "udp", "big.example.test.", dns.TypeTXT, edns)
	require.True(t, res.Truncated, "4096 asked for, 1232 is the most we send")
	require.EqualValues(t, 1232, res.IsEdns0().UDPSize())
	require.True(t, res.IsEdns0().Do())
	res = ask(t, s, "tcp", "big.example.test.", dns.TypeTXT)
	require.Len(t, res.Answer, 21)
	require.False(t, res.Truncated)
}

func TestEDNS(t *testing.T) {
	s := server(t, ServerOptions{}, testZone(t, router(t, RouterOptions{Locator: table(t)})))
	res := ask(t, s, "udp", "www.example.test.", dns.TypeA, edns, func(m *dns.Msg) { m.IsEdns0().SetVersion(1) })
	require.Equal(t, dns.RcodeBadVers, res.Rcode)
	require.Empty(t, res.Answer)
	require.Nil(t, ask(t, s, "udp", "www.example.test.", dns.TypeA).IsEdns0(), "no OPT unless asked")

	geo := func(cidr, name string, typ uint16) (string, int) {
		res := ask(t, s, "udp", name, typ, subnet(cidr))
		return data(res.Answer), scope(res)
	}
	for _, c := range []struct {
		cidr, name string
		typ        uint16
		want       string
		scope      int
	}{
		// 10.0.0.0/15 is unknown and US: both go to us
		{"10.1.2.0/24", "geo.example.test.", dns.TypeA, "A 192.0.2.1; A 192.0.2.2", 15},
		{"10.2.0.0/16", "geo.example.test.", dns.TypeA, "A 198.51.100.1", 16},
		{"10.3.130.0/24", "geo.example.test.", dns.TypeA, "A 198.51.100.1", 17},
		{"10.2.0.0/16", "example.test.", dns.TypeA, "A 198.51.100.1", 16},
		{"10.1.0.0/16", "geo.example.test.", dns.TypeAAAA, "AAAA 2001:db8:a::1", 15},
		{"2001:db8:2::/48", "geo.example.test.", dns.TypeA, "A 198.51.100.1", 48},
		{"10.1.0.0/16", "www.example.test.", dns.TypeA, "A 192.0.2.80", 0},
		{"10.1.0.0/16", "none.example.test.", dns.TypeA, "", 0},
		{"0.0.0.0/0", "geo.example.test.", dns.TypeA, "A 192.0.2.1; A 192.0.2.2", 0},
	} {
		got, sc := geo(c.cidr, c.name, c.typ)
		require.Equal(t, c.want, got, c)
		require.Equal(t, c.scope, sc, c)
	}
	one := ask(t, s, "udp", "q.geo.example.test.", dns.TypeA)
	require.Len(t, one.Answer, 1, "N")
	first := map[string]bool{}
	for range 50 {
		res := ask(t, s, "udp", "geo.example.test.", dns.TypeA)
		require.EqualValues(t, 1, res.Answer[0].Header().Ttl)
		first[res.Answer[0].(*dns.A).A.String()] = true
	}
	require.Len(t, first, 2, "addresses come in turns")
}

func TestTCPPipeliningAndLimits(t *testing.T) {
	s := server(t, ServerOptions{MaxTCPAddr: 2, TCPIdle: time.Second}, testZone(t, nil))
	c, err := dns.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	for i := range 20 {
		m := new(dns.Msg)
		m.SetQuestion("www.example.test.", dns.TypeA)
		m.Id = uint16(i)
		require.NoError(t, c.WriteMsg(m))
	}
	for i := range 20 {
		m, err := c.ReadMsg()
		require.NoError(t, err)
		require.EqualValues(t, i, m.Id)
	}
	start := time.Now()
	_, err = c.ReadMsg()
	require.Error(t, err, "idle")
	require.Less(t, time.Since(start), 25*time.Second)
}

func TestUpdateUnderLoadLosesNothing(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	s := server(t, ServerOptions{}, testZone(t, r))
	var wrong atomic.Int64
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := dns.Client{Timeout: 5 * time.Second}
			for {
				select {
				case <-stop:
					return
				default:
				}
				m := new(dns.Msg)
				m.SetQuestion("geo.example.test.", dns.TypeA)
				if res, _, err := c.Exchange(m, s.Addr().String()); err != nil || len(res.Answer) == 0 {
					wrong.Add(1)
				}
			}
		})
	}
	zones := []*Zone{testZone(t, r)}
	for i := range 1000 {
		require.NoError(t, s.Update(zones))
		if i%100 == 0 {
			require.NoError(t, r.Update(dcs(), nil, table(t)))
		}
	}
	require.Error(t, s.Update([]*Zone{nil}), "and the old one goes on")
	close(stop)
	wg.Wait()
	require.Zero(t, wrong.Load())
}

func TestRateLimitSlips(t *testing.T) {
	s := server(t, ServerOptions{RateLimit: 5, Sockets: 1}, testZone(t, nil))
	answered, truncated := 0, 0
	c, err := net.Dial("udp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	m := new(dns.Msg)
	m.SetQuestion("www.example.test.", dns.TypeA)
	b, _ := m.Pack()
	start := time.Now()
	for range 100 {
		c.Write(b)
	}
	buf := make([]byte, 512)
	for answered+int(s.Stats().Dropped) < 100 {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := c.Read(buf)
		if err != nil {
			require.Less(t, time.Since(start), 30*time.Second, "%d answered, %d dropped", answered, s.Stats().Dropped)
			continue
		}
		var res dns.Msg
		require.NoError(t, res.Unpack(buf[:n]))
		if answered++; res.Truncated {
			truncated++
			require.Empty(t, res.Answer)
		}
	}
	seconds := int(time.Now().Unix()-start.Unix()) + 1
	require.LessOrEqual(t, answered-truncated, 5*seconds, "5 a second")
	require.InDelta(t, 100-answered, truncated, float64(seconds), "every second one")
	require.Len(t, ask(t, s, "tcp", "www.example.test.", dns.TypeA).Answer, 1)
}

func TestGateShutdownAndErrors(t *testing.T) {
	var open atomic.Bool
	open.Store(true)
	var seen atomic.Int64
	s := server(t, ServerOptions{Gate: open.Load, OnQuery: func(q Query) {
		if q.Name == "www.example.test." && q.Client.Addr() == netip.MustParseAddr("127.0.0.1") {
			seen.Add(1)
		}
	}}, testZone(t, nil))
	ask(t, s, "udp", "www.example.test.", dns.TypeA)
	require.EqualValues(t, 1, seen.Load())
	open.Store(false)
	m := new(dns.Msg)
	m.SetQuestion("www.example.test.", dns.TypeA)
	c := dns.Client{Timeout: 100 * time.Millisecond}
	_, _, err := c.Exchange(m, s.Addr().String())
	require.Error(t, err, "a dead node says nothing")
	require.NoError(t, s.Shutdown(context.Background()))
	<-s.Done()
	require.NoError(t, s.Close())

	for want, z := range map[string]string{
		"no SOA":       "a IN A 192.0.2.1",
		"not in zone":  "@ IN SOA a. b. 1 2 3 4 5\nother.test. IN A 192.0.2.1",
		"second SOA":   "@ IN SOA a. b. 1 2 3 4 5\n@ IN SOA a. b. 1 2 3 4 5",
		"stands at x.": "x IN SOA a. b. 1 2 3 4 5",
		"bad A":        "a IN A nonsense",
	} {
		_, err := ParseZone("example.test.", strings.NewReader("$TTL 60\n"+z+"\n"), "f")
		require.ErrorContains(t, err, want)
	}
	z, err := NewZone("example.test.", ZoneOptions{NS: []string{"ns1.example.test."}})
	require.NoError(t, err)
	require.NoError(t, z.Add("x IN CNAME y", "x IN A 192.0.2.1"))
	_, err = Listen("127.0.0.1:0", []*Zone{z}, ServerOptions{})
	require.ErrorContains(t, err, "CNAME")
	_, err = Listen("127.0.0.1:0", nil, ServerOptions{UDPSize: 1})
	require.ErrorContains(t, err, "UDPSize")
	_, err = NewZone("example.test", ZoneOptions{})
	require.ErrorContains(t, err, "absolute")
}

// Two servers with one configuration agree on every answer.
func TestServersAgree(t *testing.T) {
	var sets []*zoneSet
	for range 2 {
		set, err := compileZones([]*Zone{testZone(t, router(t, RouterOptions{Locator: table(t), Policy: Weighted()}))})
		require.NoError(t, err)
		sets = append(sets, set)
	}
	for i := range 2000 {
		m := new(dns.Msg)
		m.SetQuestion("geo.example.test.", dns.TypeA)
		m.Id = 1
		subnet(fmt.Sprintf("10.%d.%d.0/24", i%5, i/10))(m)
		b, _ := m.Pack()
		var answers [2]string
		for k, set := range sets {
			q := new(query)
			v := q.parse(b)
			answers[k] = string(set.answer(q, v, b, ip("10.0.0.1"), make([]byte, 0, 2048), 1232).out)
		}
		require.Equal(t, answers[0], answers[1])
	}
}
