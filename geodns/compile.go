package geodns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// zoneData is a zone compiled for answering: names in lower-case wire form, records packed.
type zoneData struct {
	apex     string // wire form
	nodes    map[string]*node
	soa      *rrset
	negative []byte // the SOA record's tail with the negative TTL (RFC 2308 section 3)
	cuts     bool   // it delegates
	signer   *signer
}

// node is a name of the zone. One without records is an empty non-terminal: it exists, so it is no NXDOMAIN.
type node struct {
	sets   map[uint16]*rrset
	geo    *geoName
	cname  string // the target, in wire form
	alias  string // the same of an alias
	target []byte // of either
	cut    bool   // a delegation
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
	d := &zoneData{apex: apex, nodes: map[string]*node{}, signer: z.signer}
	byName := map[string][]dns.RR{}
	rrs := z.rrs
	if z.signer != nil {
		rrs = append(slices.Clip(rrs), z.signer.dnskey)
	}
	for _, rr := range rrs {
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
	for name, target := range z.alias {
		w, err := wireName(name)
		if err != nil {
			return nil, err
		}
		if d.node(w).alias, err = wireName(target); err != nil {
			return nil, err
		}
	}
	if d.soa == nil {
		return nil, fmt.Errorf("geodns: zone %s has no SOA", z.origin)
	}
	for name, n := range d.nodes {
		if n.cname+n.alias != "" {
			n.target = []byte(n.cname + n.alias)
		}
		if n.cname != "" && (len(n.sets) > 1 || n.geo != nil || n.alias != "" || n.sets[dns.TypeCNAME].n > 1) {
			return nil, fmt.Errorf("geodns: %s: a CNAME stands beside other records", showName(name))
		}
		if (n.geo != nil || n.alias != "") && (n.sets[dns.TypeA] != nil || n.sets[dns.TypeAAAA] != nil) {
			return nil, fmt.Errorf("geodns: %s: static addresses beside Geo or Alias", showName(name))
		}
		if n.geo != nil && n.alias != "" {
			return nil, fmt.Errorf("geodns: %s: Geo beside Alias", showName(name))
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
	case *dns.SVCB:
		target = x.Target
	case *dns.HTTPS:
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
type zoneSet struct {
	byApex map[string]*zoneData
	signed bool // any of them
}

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
		s.signed = s.signed || d.signer != nil
	}
	for _, d := range s.byApex {
		for name, n := range d.nodes {
			if n.alias == "" {
				continue
			}
			if z, _ := s.find([]byte(n.alias)); z == nil {
				return nil, fmt.Errorf("geodns: %s: its alias %s is in no zone of this server", showName(name),
					showName(n.alias))
			}
		}
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
