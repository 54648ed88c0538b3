package geodns

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// reference answers as RFC 1034 section 4.3.2 and RFC 4592 say, from records and strings, one step after the other:
// slow, and with nothing in common with the compiled zones.
type reference struct {
	zones []*Zone
}

type refAnswer struct {
	rcode      int
	aa         bool
	answer, ns []string
}

func (f *reference) zone(name string) (best *Zone) {
	for _, z := range f.zones {
		if dns.IsSubDomain(z.origin, name) && (best == nil || len(z.origin) > len(best.origin)) {
			best = z
		}
	}
	return best
}

// at returns the records of a name, and whether the name exists (by itself or by one below it).
func (z *Zone) at(name string) (rrs []dns.RR, exists bool) {
	for _, rr := range z.rrs {
		owner := dns.CanonicalName(rr.Header().Name)
		if owner == name {
			rrs = append(rrs, rr)
		}
		exists = exists || dns.IsSubDomain(name, owner)
	}
	for owner := range z.geo {
		exists = exists || dns.IsSubDomain(name, owner)
	}
	for owner := range z.alias {
		exists = exists || dns.IsSubDomain(name, owner)
	}
	return rrs, exists
}

func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

func show(rr dns.RR, owner string) string {
	rr = dns.Copy(rr)
	rr.Header().Name = owner
	return rr.String()
}

func (f *reference) ask(question string, typ uint16, client netip.Addr,
	center func(*Router, netip.Addr) []netip.Addr) (a refAnswer) {
	name := dns.CanonicalName(question)
	owner := question
	z := f.zone(name)
	if z == nil {
		return refAnswer{rcode: dns.RcodeRefused}
	}
	a.aa = true
	negative := func(rcode int) refAnswer {
		a.rcode = rcode
		for _, rr := range z.rrs {
			if soa, ok := rr.(*dns.SOA); ok {
				soa = dns.Copy(soa).(*dns.SOA)
				soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
				a.ns = append(a.ns, show(soa, z.origin))
			}
		}
		return a
	}
	for hop := 0; ; hop++ {
		// Delegations, from the top down.
		var above []string
		for n := name; n != z.origin; n = parent(n) {
			above = append(above, n)
		}
		slices.Reverse(above)
		for _, n := range above {
			rrs, _ := z.at(n)
			var ns []string
			for _, rr := range rrs {
				if rr.Header().Rrtype == dns.TypeNS {
					ns = append(ns, show(rr, n))
				}
			}
			if len(ns) > 0 && !(n == name && typ == dns.TypeDS) {
				a.ns = append(a.ns, ns...)
				a.aa = a.aa && len(a.answer) > 0
				return a
			}
		}
		at := name
		rrs, exists := z.at(name)
		if !exists {
			encloser := parent(name)
			for {
				if _, ok := z.at(encloser); ok {
					break
				}
				encloser = parent(encloser)
			}
			at = "*." + encloser
			if rrs, exists = z.at(at); !exists {
				return negative(dns.RcodeNameError)
			}
		}
		if typ != dns.TypeANY {
			if i := slices.IndexFunc(rrs, func(rr dns.RR) bool {
				return rr.Header().Rrtype == dns.TypeCNAME
			}); i >= 0 && typ != dns.TypeCNAME {
				a.answer = append(a.answer, show(rrs[i], owner))
				target := dns.CanonicalName(rrs[i].(*dns.CNAME).Target)
				next := f.zone(target)
				if next == nil || target == dns.CanonicalName(question) || hop == 8 {
					return a
				}
				z, name, owner = next, target, target
				continue
			}
		} else {
			a.answer = append(a.answer, show(
				&dns.HINFO{Hdr: dns.RR_Header{Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600}, Cpu: "RFC8482"},
				owner))
			return a
		}
		if g, ok := z.geo[at]; ok && (typ == dns.TypeA || typ == dns.TypeAAAA) {
			n := 0
			for _, ad := range center(g.router, client) {
				if ad.Is4() != (typ == dns.TypeA) || n == g.n {
					continue
				}
				n++
				h := dns.RR_Header{Rrtype: typ, Class: dns.ClassINET, Ttl: g.ttl}
				if ad.Is4() {
					a.answer = append(a.answer, show(&dns.A{Hdr: h, A: ad.AsSlice()}, owner))
				} else {
					a.answer = append(a.answer, show(&dns.AAAA{Hdr: h, AAAA: ad.AsSlice()}, owner))
				}
			}
			if n == 0 {
				return negative(0)
			}
			return a
		}
		n := len(a.answer)
		for _, rr := range rrs {
			if rr.Header().Rrtype == typ {
				a.answer = append(a.answer, show(rr, owner))
			}
		}
		if len(a.answer) == n {
			return negative(0)
		}
		return a
	}
}

// FuzzAgainstReference: the fast path says what the slow one does, for every name, type and subnet.
func FuzzAgainstReference(f *testing.F) {
	r, err := NewRouter(RouterOptions{DCs: dcs(), Locator: table(f)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { r.Close() })
	z, err := ParseZone("example.test.", strings.NewReader(zoneFile), "test")
	require.NoError(f, err)
	require.NoError(f, z.Geo("geo", r, GeoOptions{}))
	require.NoError(f, z.Geo("*.geo", r, GeoOptions{N: 1}))
	require.NoError(f, z.Add("*.sub2 IN CNAME geo", "sub2 IN NS ns.sub2", "to IN CNAME a.wild", "x.y.z IN CNAME b.ent",
		"*.star IN CNAME x.geo", "up IN CNAME www.child"))
	child, err := NewZone("child.example.test.",
		ZoneOptions{NS: []string{"ns1.example.test."}, TTL: 20 * 1e9, NegativeTTL: 50 * 1e9})
	require.NoError(f, err)
	require.NoError(f, child.Add("www IN A 192.0.2.3", "back IN CNAME chain.example.test.", "* IN MX 1 www",
		"@ IN A 192.0.2.4"))
	set, err := compileZones([]*Zone{z, child})
	require.NoError(f, err)
	ref := &reference{[]*Zone{z, child}}
	labels := []string{"www", "*", "a", "b", "ent", "wild", "geo", "sub", "sub2", "child", "x", "y", "z", "star", "up",
		"back", "alias", "chain", "loop", "dead", "away", "to", "ns", "ns1", "mail", "srv", "WWW", "Geo", "svc", "caa",
		"txt"}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSOA,
		dns.TypeANY, dns.TypeDS, dns.TypeSRV, dns.TypeHTTPS, dns.TypeCAA}
	for i := range labels {
		f.Add(uint16(1), uint8(i), uint8(0), uint8(0), uint8(i%12), uint32(0x0a020000))
		f.Add(uint16(2), uint8(i), uint8(i/2), uint8(0), uint8(0), uint32(0x0a010000))
		f.Add(uint16(18), uint8(i), uint8(3), uint8(1), uint8(1), uint32(0x0a038001))
		f.Add(uint16(19), uint8(i), uint8(9), uint8(1), uint8(0), uint32(0x0a038001))
	}
	check := func(name string, typ uint16, client netip.Addr) error {
		m := new(dns.Msg)
		m.SetQuestion(name, typ)
		m.SetEdns0(4096, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option,
			&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: client.AsSlice()})
		b, err := m.Pack()
		if err != nil {
			return nil // no name
		}
		q := new(query)
		v := q.parse(b)
		got := set.answer(q, v, b, ip("192.0.2.200"), make([]byte, 0, answerSize), 4096)
		var res dns.Msg
		if err := res.Unpack(got.out); err != nil {
			return err
		}
		want := ref.ask(name, typ, client, func(r *Router, a netip.Addr) []netip.Addr { return r.Route(a).Addrs })
		// Which of the two addresses of a center comes first is a matter of turns.
		text := func(rrs []dns.RR) (out []string) {
			for _, rr := range rrs {
				out = append(out, show(rr, dns.CanonicalName(rr.Header().Name)))
			}
			sort.Strings(out)
			return out
		}
		lower := func(rrs []string) (out []string) {
			for _, s := range rrs {
				owner, rest, _ := strings.Cut(s, "\t")
				out = append(out, strings.ToLower(owner)+"\t"+rest)
			}
			sort.Strings(out)
			return out
		}
		a, w := text(res.Answer), lower(want.answer)
		for _, rrs := range [][]string{a, w} {
			for i, rr := range rrs {
				if !strings.HasSuffix(name, "geo.example.test.") || len(rrs) == 1 || strings.Contains(rrs[0], "CNAME") {
					rrs[i] = strings.Replace(rr, "192.0.2.2", "192.0.2.1", 1)
				}
			}
		}
		if res.Rcode != want.rcode || res.Authoritative != want.aa || !slices.Equal(a, w) ||
			!slices.Equal(text(res.Ns), lower(want.ns)) {
			return fmt.Errorf("%s %s from %v:\n got %d aa %t %q ns %q\nwant %d aa %t %q ns %q", name,
				dns.TypeToString[typ], client,
				res.Rcode, res.Authoritative, a, text(res.Ns), want.rcode, want.aa, w, lower(want.ns))
		}
		return nil
	}
	for i := range labels { // every pair of labels, every type
		for k := range labels {
			for _, typ := range types {
				if err := check(labels[i]+"."+labels[k]+".example.test.", typ, ip("10.2.0.1")); err != nil {
					f.Fatal(err)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, shape uint16, l1, l2, l3, typ uint8, addr uint32) {
		name := ""
		for _, l := range []uint8{l1, l2, l3}[:shape%4] {
			name += labels[int(l)%len(labels)] + "."
		}
		if shape&16 != 0 {
			name += "child."
		}
		if name += "example.test."; shape&32 != 0 {
			name += "other."
		}
		if err := check(name, types[int(typ)%len(types)],
			netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)})); err != nil {
			t.Fatal(err)
		}
	})
}
