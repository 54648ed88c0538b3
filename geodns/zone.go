package geodns

import (
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
	alias  map[string]string  // targets by owner, both lower case
	signer *signer            // nil: not signed
}

type geoName struct {
	router  *Router
	ttl     uint32
	n       int
	centers int
}

// NewZone returns a zone with its SOA and NS records. The origin is absolute: "example.com.".
func NewZone(origin string, o ZoneOptions) (*Zone, error) {
	if _, ok := dns.IsDomainName(origin); !ok || !dns.IsFqdn(origin) {
		return nil, fmt.Errorf("geodns: origin %q: want an absolute name, with a final dot", origin)
	}
	if len(o.NS) == 0 {
		return nil, errors.New("geodns: ZoneOptions.NS: want at least one")
	}
	z := &Zone{origin: dns.CanonicalName(origin), geo: map[string]geoName{}, alias: map[string]string{},
		ttl: seconds(o.TTL, 3600)}
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
		z.rrs = append(z.rrs, &dns.NS{Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeNS, Class: dns.ClassINET,
			Ttl: z.ttl}, Ns: ns})
	}
	return z, nil
}

// ParseZone reads a standard zone file (RFC 1035 section 5). It must hold the SOA. Includes are not followed.
func ParseZone(origin string, r io.Reader, filename string) (*Zone, error) {
	if _, ok := dns.IsDomainName(origin); !ok || !dns.IsFqdn(origin) {
		return nil, fmt.Errorf("geodns: origin %q: want an absolute name, with a final dot", origin)
	}
	z := &Zone{origin: dns.CanonicalName(origin), geo: map[string]geoName{}, alias: map[string]string{}, ttl: 3600}
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

func seconds(d time.Duration, zero uint32) uint32 {
	if d <= 0 {
		return zero
	}
	return uint32(min(max(d/time.Second, 1), 1<<31-1))
}

// GeoOptions of a name that a [Router] answers.
type GeoOptions struct {
	TTL time.Duration // 0: 30 s; whole seconds, at least 1 s
	N   int           // most addresses in an answer; 0: 8

	// Centers is how many centers an answer names, the client's own first and then the next best that are healthy, each
	// with its part of N: a client that can't reach the first one tries the next, before any check has noticed. 0: 1;
	// at most 8.
	Centers int
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
	if o.Centers < 0 || o.Centers > maxCenters {
		return fmt.Errorf("geodns: GeoOptions.Centers %d: want 0 to %d", o.Centers, maxCenters)
	}
	full, err := z.absolute(name)
	if err != nil {
		return err
	}
	if !dns.IsSubDomain(z.origin, full) {
		return fmt.Errorf("geodns: name %q is not in zone %s", name, z.origin)
	}
	z.geo[full] = geoName{r, seconds(o.TTL, 30), o.N, max(o.Centers, 1)}
	return nil
}

// Alias lets a name answer A and AAAA queries with the addresses of another, as a CNAME does, but beside other records:
// so it may stand at the zone itself ("@"). The target is a name of any zone of the same server, static or Geo; one
// that does not exist has no addresses, and one that no zone of the server holds is an error of [Listen].
func (z *Zone) Alias(name, target string) error {
	full, err := z.absolute(name)
	if err != nil {
		return err
	}
	if !dns.IsSubDomain(z.origin, full) {
		return fmt.Errorf("geodns: name %q is not in zone %s", name, z.origin)
	}
	if z.alias[full], err = z.absolute(target); err != nil {
		delete(z.alias, full)
	}
	return err
}

// absolute completes a name: "@" is the zone itself, one without a final dot is relative to it.
func (z *Zone) absolute(name string) (string, error) {
	full := z.origin
	if name != "@" && name != "" {
		if full = name; !dns.IsFqdn(name) {
			if full = name + "." + z.origin; z.origin == "." {
				full = name + "."
			}
		}
	}
	if _, ok := dns.IsDomainName(full); !ok {
		return "", fmt.Errorf("geodns: %q is no domain name", name)
	}
	return dns.CanonicalName(full), nil
}
