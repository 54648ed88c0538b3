package client

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// lookup is an answer of our name servers, kept for its TTL.
type lookup struct {
	addrs []netip.Addr
	until time.Time
}

// resolve asks the name servers for the site's addresses near the client, as its resolver would: with the client's
// subnet (RFC 7871), another server when one does not answer, and again only after the TTL.
func (c *Client) resolve() ([]netip.Addr, error) {
	c.mu.Lock()
	if time.Now().Before(c.dns.until) {
		addrs := c.dns.addrs
		c.mu.Unlock()
		return addrs, nil
	}
	c.mu.Unlock()

	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(c.net.Host), dns.TypeA)
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(1232)
	subnet := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: c.Addr.AsSlice()}
	if c.Addr.Is6() {
		subnet.Family, subnet.SourceNetmask = 2, 56
	}
	prefix, _ := c.Addr.Prefix(int(subnet.SourceNetmask))
	subnet.Address = prefix.Addr().AsSlice()
	opt.Option = append(opt.Option, subnet)
	q.Extra = append(q.Extra, opt)

	d := dns.Client{Timeout: 250 * time.Millisecond}
	first := rand.IntN(len(c.net.NameServers))
	var err error
	for try := range 2 * len(c.net.NameServers) {
		server := c.net.NameServers[(first+try)%len(c.net.NameServers)]
		var a *dns.Msg
		if a, _, err = d.Exchange(q, server); err != nil {
			c.net.dnsRetries.Add(1)
			continue
		}
		if a.Rcode != dns.RcodeSuccess {
			err = fmt.Errorf("%s for %s", dns.RcodeToString[a.Rcode], c.net.Host)
			continue
		}
		var addrs []netip.Addr
		ttl := uint32(1 << 30)
		for _, rr := range a.Answer {
			if rec, ok := rr.(*dns.A); ok {
				if addr, ok := netip.AddrFromSlice(rec.A.To4()); ok {
					addrs, ttl = append(addrs, addr), min(ttl, rec.Hdr.Ttl)
				}
			}
		}
		if len(addrs) == 0 {
			err = fmt.Errorf("no address for %s", c.net.Host)
			continue
		}
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		c.mu.Lock()
		c.dns = lookup{addrs, time.Now().Add(time.Duration(ttl) * time.Second)}
		c.mu.Unlock()
		return addrs, nil
	}
	return nil, fmt.Errorf("dns: %w", err)
}
