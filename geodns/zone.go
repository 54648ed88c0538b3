package geodns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ZoneOptions of a zone made in Go.
type ZoneOptions struct {
	NS          []string      // names of the zone's servers, absolute with a final dot; required
	Hostmaster  string        // mailbox as a name; empty: "hostmaster." + origin
	Serial      uint32        // 0: 1
	TTL         time.Duration // of the SOA, the NS and of static records that carry none; 0: 1 hour
	NegativeTTL time.Duration // of NXDOMAIN and NODATA; 0: 1 minute
}

// Zone is the data of one zone. Build it, give it to a [Server], and do not change it afterwards: make a new one and
// [Server.Update]. One zone may be given to several servers.
type Zone struct {
	origin string // lower case, with the final dot
	ttl    uint32
	rrs    []dns.RR
	geo    map[string]geoName // by owner, lower case
}

type geoName struct {
	router *Router
	ttl    uint32
	n      int
}

// NewZone returns a zone with its SOA and NS records. The origin is absolute: "example.com.".
func NewZone(origin string, o ZoneOptions) (*Zone, error) {
	if _, ok := dns.IsDomainName(origin); !ok || !dns.IsFqdn(origin) {
		return nil, fmt.Errorf("geodns: origin %q: want an absolute name, with a final dot", origin)
	}
	if len(o.NS) == 0 {
		return nil, errors.New("geodns: ZoneOptions.NS: want at least one")
	}
	z := &Zone{origin: dns.CanonicalName(origin), geo: map[string]geoName{}, ttl: seconds(o.TTL, 3600)}
	if o.Hostmaster == "" {
		o.Hostmaster = "hostmaster." + origin
	}
	if o.Serial == 0 {
		o.Serial = 1
	}
	negative := seconds(o.NegativeTTL, 60)
	z.rrs = append(z.rrs, &dns.SOA{
		Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.ttl},
		Ns:  o.NS[0], Mbox: o.Hostmaster, Serial: o.Serial, Refresh: 3600, Retry: 600, Expire: 604800, Minttl: negative,
	})
	for _, ns := range o.NS {
		if _, ok := dns.IsDomainName(ns); !ok || !dns.IsFqdn(ns) {
			return nil, fmt.Errorf("geodns: ZoneOptions.NS %q: want an absolute name, with a final dot", ns)
		}
		z.rrs = append(z.rrs, &dns.NS{Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: z.ttl}, Ns: ns})
	}
	return z, nil
}

// ParseZone reads a standard zone file (RFC 1035 section 5). It must hold the SOA. Includes are not followed.
func ParseZone(origin string, r io.Reader, filename string) (*Zone, error) {
	if _, ok := dns.IsDomainName(origin); !ok || !dns.IsFqdn(origin) {
		return nil, fmt.Errorf("geodns: origin %q: want an absolute name, with a final dot", origin)
	}
	z := &Zone{origin: dns.CanonicalName(origin), geo: map[string]geoName{}, ttl: 3600}
	p := dns.NewZoneParser(r, origin, filename)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		if err := z.take(rr); err != nil {
			return nil, err
		}
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("geodns: %w", err)
	}
	for _, rr := range z.rrs {
		if rr.Header().Rrtype == dns.TypeSOA {
			return z, nil
		}
	}
	return nil, fmt.Errorf("geodns: %s: no SOA of %s", filename, z.origin)
}

// Add adds records in presentation format, such as "www 300 IN A 192.0.2.1"; names without a final dot are relative to
// the zone.
func (z *Zone) Add(records ...string) error {
	for _, s := range records {
		p := dns.NewZoneParser(strings.NewReader(s+"\n"), z.origin, "")
		p.SetDefaultTTL(z.ttl)
		rr, ok := p.Next()
		if err := p.Err(); err != nil {
			return fmt.Errorf("geodns: record %q: %w", s, err)
		}
		if !ok {
			return fmt.Errorf("geodns: record %q: empty", s)
		}
		if err := z.take(rr); err != nil {
			return err
		}
	}
	return nil
}

func (z *Zone) take(rr dns.RR) error {
	h := rr.Header()
	if !dns.IsSubDomain(z.origin, h.Name) {
		return fmt.Errorf("geodns: %s is not in zone %s", h.Name, z.origin)
	}
	if h.Class != dns.ClassINET {
		return fmt.Errorf("geodns: %s: class %s is not served", h.Name, dns.ClassToString[h.Class])
	}
	if h.Rrtype == dns.TypeSOA {
		for _, x := range z.rrs {
			if x.Header().Rrtype == dns.TypeSOA {
				return fmt.Errorf("geodns: a second SOA in zone %s", z.origin)
			}
		}
		if dns.CanonicalName(h.Name) != z.origin {
			return fmt.Errorf("geodns: the SOA of %s stands at %s", z.origin, h.Name)
		}
	}
	z.rrs = append(z.rrs, rr)
	return nil
}

// GeoOptions of a name that a [Router] answers.
type GeoOptions struct {
	TTL time.Duration // 0: 30 s; whole seconds, at least 1 s
	N   int           // most addresses in an answer; 0: 8
}

// Geo lets a router answer A and AAAA queries for a name ("@" is the zone itself, "*" a wildcard). The addresses come
// in turns; those that are down are left out.
func (z *Zone) Geo(name string, r *Router, o GeoOptions) error {
	if r == nil {
		return errors.New("geodns: Geo: no router")
	}
	if o.TTL != 0 && o.TTL < time.Second {
		return fmt.Errorf("geodns: GeoOptions.TTL %v: want at least 1 s", o.TTL)
	}
	if o.N < 0 {
		return fmt.Errorf("geodns: GeoOptions.N %d: want 0 or more", o.N)
	}
	if o.N == 0 {
		o.N = 8
	}
	full := z.origin
	if name != "@" && name != "" {
		if full = name; !dns.IsFqdn(name) {
			if full = name + "." + z.origin; z.origin == "." {
				full = name + "."
			}
		}
	}
	if _, ok := dns.IsDomainName(full); !ok || !dns.IsSubDomain(z.origin, full) {
		return fmt.Errorf("geodns: name %q is not in zone %s", name, z.origin)
	}
	z.geo[dns.CanonicalName(full)] = geoName{r, seconds(o.TTL, 30), o.N}
	return nil
}

func seconds(d time.Duration, zero uint32) uint32 {
	if d <= 0 {
		return zero
	}
	return uint32(min(max(d/time.Second, 1), 1<<31-1))
}

// zoneData is a zone compiled for answering: names in lower-case wire form, records packed.
type zoneData struct {
	apex     string // wire form
	nodes    map[string]*node
	soa      *rrset
	negative []byte // the SOA record's tail with the negative TTL (RFC 2308 section 3)
	cuts     bool   // it delegates
}

// node is a name of the zone. One without records is an empty non-terminal: it exists, so it is no NXDOMAIN.
type node struct {
	sets  map[uint16]*rrset
	geo   *geoName
	cname string // target in wire form, as it was written
	cut   bool   // a delegation
}

// rrset is the records of one name and type. A tail is all of a record but its owner: type, class, TTL, length, data.
type rrset struct {
	tails []byte
	n     int
	glue  []glue // of NS and the like: addresses that belong into the additional section
}

type glue struct {
	owner string // wire form
	tails []byte
	n     int
}

func (z *Zone) compile() (*zoneData, error) {
	apex, err := wireName(z.origin)
	if err != nil {
		return nil, err
	}
	d := &zoneData{apex: apex, nodes: map[string]*node{}}
	byName := map[string][]dns.RR{}
	for _, rr := range z.rrs {
		name, err := wireName(rr.Header().Name)
		if err != nil {
			return nil, err
		}
		n := d.node(name)
		set := n.sets[rr.Header().Rrtype]
		if set == nil {
			set = &rrset{}
			n.sets[rr.Header().Rrtype] = set
		}
		tail, err := packTail(rr)
		if err != nil {
			return nil, fmt.Errorf("geodns: %s: %w", rr.Header().Name, err)
		}
		set.tails = append(set.tails, tail...)
		set.n++
		switch x := rr.(type) {
		case *dns.CNAME:
			if n.cname, err = wireName(x.Target); err != nil {
				return nil, err
			}
		case *dns.NS:
			if name != apex {
				n.cut, d.cuts = true, true
			}
		case *dns.SOA:
			d.soa = set
			negative := dns.Copy(x)
			negative.Header().Ttl = min(x.Hdr.Ttl, x.Minttl)
			if d.negative, err = packTail(negative); err != nil {
				return nil, err
			}
		}
		byName[name] = append(byName[name], rr)
	}
	for name, g := range z.geo {
		w, err := wireName(name)
		if err != nil {
			return nil, err
		}
		d.node(w).geo = &g
	}
	if d.soa == nil {
		return nil, fmt.Errorf("geodns: zone %s has no SOA", z.origin)
	}
	for name, n := range d.nodes {
		if n.cname != "" && (len(n.sets) > 1 || n.geo != nil || n.sets[dns.TypeCNAME].n > 1) {
			return nil, fmt.Errorf("geodns: %s: a CNAME stands beside other records", showName(name))
		}
		if n.geo != nil && (n.sets[dns.TypeA] != nil || n.sets[dns.TypeAAAA] != nil) {
			return nil, fmt.Errorf("geodns: %s: static addresses beside Geo", showName(name))
		}
	}
	for _, rrs := range byName {
		for _, rr := range rrs {
			d.addGlue(rr)
		}
	}
	return d, nil
}

// addGlue joins the addresses of the host that a record names, when the zone knows them.
func (d *zoneData) addGlue(rr dns.RR) {
	var target string
	switch x := rr.(type) {
	case *dns.NS:
		target = x.Ns
	case *dns.MX:
		target = x.Mx
	case *dns.SRV:
		target = x.Target
	default:
		return
	}
	host, err := wireName(target)
	owner, err2 := wireName(rr.Header().Name)
	if err != nil || err2 != nil || d.nodes[host] == nil {
		return
	}
	set := d.nodes[owner].sets[rr.Header().Rrtype]
	for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if a := d.nodes[host].sets[typ]; a != nil {
			set.glue = append(set.glue, glue{host, a.tails, a.n})
		}
	}
}

// node returns the node of a name and makes it and those between it and the apex.
func (d *zoneData) node(name string) *node {
	n := d.nodes[name]
	if n == nil {
		n = &node{sets: map[uint16]*rrset{}}
		d.nodes[name] = n
		if name != d.apex && len(name) > 1 {
			d.node(name[1+int(name[0]):])
		}
	}
	return n
}

// wireName packs a name, lower case.
func wireName(name string) (string, error) {
	var b [256]byte
	n, err := dns.PackDomainName(dns.CanonicalName(name), b[:], 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("geodns: name %q: %w", name, err)
	}
	return string(b[:n]), nil
}

func showName(wire string) string {
	s, _, _ := dns.UnpackDomainName([]byte(wire), 0)
	return s
}

func packTail(rr dns.RR) ([]byte, error) {
	b := make([]byte, dns.Len(rr)+256)
	end, err := dns.PackRR(rr, b, 0, nil, false)
	if err != nil {
		return nil, err
	}
	_, at, err := dns.UnpackDomainName(b, 0)
	if err != nil {
		return nil, err
	}
	return b[at:end:end], nil
}

// zoneSet finds zones by name.
type zoneSet struct{ byApex map[string]*zoneData }

func compileZones(zones []*Zone) (*zoneSet, error) {
	s := &zoneSet{byApex: map[string]*zoneData{}}
	for _, z := range zones {
		if z == nil {
			return nil, errors.New("geodns: nil zone")
		}
		d, err := z.compile()
		if err != nil {
			return nil, err
		}
		if s.byApex[d.apex] != nil {
			return nil, fmt.Errorf("geodns: zone %s stands twice", z.origin)
		}
		s.byApex[d.apex] = d
	}
	return s, nil
}

// find returns the zone that is closest to name, and where its apex begins in it.
func (s *zoneSet) find(name []byte) (*zoneData, int) {
	for at := 0; ; at += 1 + int(name[at]) {
		if z := s.byApex[string(name[at:])]; z != nil {
			return z, at
		}
		if name[at] == 0 {
			return nil, 0
		}
	}
}

// tails iterates over packed records: each is type, class, TTL, length and data.
func tailLen(b []byte) int { return 10 + int(binary.BigEndian.Uint16(b[8:])) }
