package geodns

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	typeNSEC   = 47
	typeRRSIG  = 46
	typeNXNAME = 128 // RFC 9824: in an NSEC record, the name does not exist
)

// SignOptions of [Zone.Sign]. The zero value of every field but Key is a good default.
type SignOptions struct {
	Key crypto.Signer // required: an ECDSA P-256 key, the same on all servers of the zone
	// of signatures; 0: 72 h; at least 1 h. They begin an hour in the past, for clocks that are slow
	Validity time.Duration
	TTL      time.Duration // of the DNSKEY record; 0: 1 h
}

// Sign lets servers sign the zone's answers as they give them (DNSSEC, RFC 4034 and 4035; algorithm 13), for clients
// that ask for it with the DO bit: answers that depend on who asks can't be signed beforehand. What does not exist is
// denied compactly (RFC 9824): with a record made for the question, which tells no other name of the zone. Signatures
// are kept until half of their validity has passed, up to 65536 of a server; one that is not kept takes about 40 us to
// make, so set ServerOptions.RateLimit against floods of invented names.
//
// The same key signs the zone and itself. Give the record of [Zone.DS] to the parent zone; without it resolvers take
// the zone for unsigned. To change the key, unsign the zone for a while: take the DS out, wait for its TTL, and go on
// with the new one.
func (z *Zone) Sign(o SignOptions) error {
	if o.Key == nil {
		return errors.New("geodns: SignOptions.Key: want an ECDSA P-256 key")
	}
	pub, ok := o.Key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return errors.New("geodns: SignOptions.Key: want an ECDSA P-256 key")
	}
	switch {
	case o.Validity == 0:
		o.Validity = 72 * time.Hour
	case o.Validity < time.Hour:
		return fmt.Errorf("geodns: SignOptions.Validity %v: want at least 1 h", o.Validity)
	}
	point, err := pub.Bytes() // 4, X, Y
	if err != nil {
		return fmt.Errorf("geodns: SignOptions.Key: %w", err)
	}
	for _, rr := range z.rrs {
		switch t := rr.Header().Rrtype; t {
		case dns.TypeDNSKEY, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM:
			return fmt.Errorf("geodns: zone %s holds %s records: sign it here or beforehand, not both", z.origin,
				dns.TypeToString[t])
		}
	}
	z.signer = &signer{
		key: o.Key, validity: o.Validity, seed: maphash.MakeSeed(),
		dnskey: &dns.DNSKEY{
			Hdr: dns.RR_Header{Name: z.origin, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET,
				Ttl: seconds(o.TTL, 3600)},
			Flags: 257, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
			PublicKey: base64.StdEncoding.EncodeToString(point[1:]),
		},
	}
	for i := range z.signer.kept {
		z.signer.kept[i].byKey = map[string]signature{}
	}
	z.signer.tag = z.signer.dnskey.KeyTag()
	return nil
}

// DS is the record that the parent zone must hold, in presentation format; "" for a zone that is not signed.
func (z *Zone) DS() string {
	if z.signer == nil {
		return ""
	}
	return z.signer.dnskey.ToDS(dns.SHA256).String()
}

// signer signs record sets of one zone and keeps the signatures.
type signer struct {
	key      crypto.Signer
	validity time.Duration
	dnskey   *dns.DNSKEY
	tag      uint16
	seed     maphash.Seed
	kept     [64]struct {
		mu    sync.Mutex
		byKey map[string]signature
	}
}

type signature struct {
	tail  []byte // of the RRSIG record
	renew int64  // Unix time
}

const keptPerShard = 1024

// sign returns the tail of the RRSIG of a set: its records as wire, whose owner is the lower-case name.
func (s *signer) sign(apex, owner string, typ uint16, tails [][]byte, now time.Time) ([]byte, error) {
	slices.SortFunc(tails, slices.Compare) // servers give addresses in turns, it is one set all the same
	key := make([]byte, 0, 256)
	key = append(append(key, owner...), byte(typ>>8), byte(typ))
	for _, t := range tails {
		key = append(key, t...)
	}
	shard := &s.kept[maphash.Bytes(s.seed, key)%uint64(len(s.kept))]
	shard.mu.Lock()
	known, ok := shard.byKey[string(key)]
	shard.mu.Unlock()
	if ok && now.Unix() < known.renew {
		return known.tail, nil
	}
	var set []dns.RR
	for _, t := range tails {
		rr, _, err := dns.UnpackRR(append([]byte(owner), t...), 0)
		if err != nil {
			return nil, err
		}
		set = append(set, rr)
	}
	sig := &dns.RRSIG{
		Hdr:       dns.RR_Header{Ttl: set[0].Header().Ttl},
		Algorithm: s.dnskey.Algorithm, KeyTag: s.tag, SignerName: showName(apex),
		Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(s.validity).Unix()),
	}
	if err := sig.Sign(s.key, set); err != nil {
		return nil, err
	}
	tail, err := packTail(sig)
	if err != nil {
		return nil, err
	}
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if len(shard.byKey) >= keptPerShard {
		for k := range shard.byKey { // any one
			delete(shard.byKey, k)
			break
		}
	}
	shard.byKey[string(key)] = signature{tail, now.Add(s.validity / 2).Unix()}
	return tail, nil
}

// denial is what a negative answer is about: it is filled while the answer is built, at no cost to others.
type denial struct {
	zone *zoneData
	name []byte // that has no such records, lower case, in wire form
	node *node  // nil: the name does not exist
}

// nsec is the tail of the NSEC record that says of a name what there is: only itself, and the types of its node but the
// one that was asked for. The next name is the one directly behind it, so that nothing else is denied.
func (d *denial) nsec(asked uint16) ([]byte, error) {
	types := []uint16{typeRRSIG, typeNSEC}
	if d.node == nil {
		types = append(types, typeNXNAME)
	} else {
		for t := range d.node.sets {
			types = append(types, t)
		}
		if d.node.geo != nil || d.node.alias != "" {
			types = append(types, typeA, typeAAAA)
		}
		if d.node.cut { // RFC 4035 section 2.3: of a delegation only these are the parent's
			types = slices.DeleteFunc(types, func(t uint16) bool {
				return t != dns.TypeNS && t != typeDS && t != typeRRSIG && t != typeNSEC
			})
		}
		types = slices.DeleteFunc(types, func(t uint16) bool { return t == asked && t != typeNSEC && t != typeRRSIG })
	}
	slices.Sort(types)
	next := dns.Fqdn("\\000." + showName(string(d.name)))
	if len(d.name)+2 > 255 { // no room for a label: the name is its own successor, which covers nothing
		next = showName(string(d.name))
	}
	ttl := binary.BigEndian.Uint32(d.zone.negative[4:]) // RFC 9077
	return packTail(&dns.NSEC{
		Hdr:        dns.RR_Header{Name: showName(string(d.name)), Rrtype: typeNSEC, Class: classIN, Ttl: ttl},
		NextDomain: next, TypeBitMap: slices.Compact(types),
	})
}

// secure adds signatures and denials to a complete answer. What it returns is built anew from the sections in r.
func (s *zoneSet) secure(r *reply, now time.Time) error {
	q := r.q
	out := append(make([]byte, 0, len(r.out)+1024), r.out[:q.end]...)
	old := r.out
	at := q.end
	an, ns, ar := r.an, r.ns, r.ar
	r.out, r.an, r.ns, r.ar = out, 0, 0, 0
	var cut *zoneData // a referral's
	var cutName string
	for section, count := range []int{an, ns} {
		for count > 0 {
			set := readSet(old, at, count)
			z, apex := s.find([]byte(set.owner))
			authoritative := z != nil && z.signer != nil
			if section == 1 && set.typ == dns.TypeNS && apex > 0 {
				cut, cutName, authoritative = z, set.owner, false
			}
			if !r.add(section, old[at:set.end], set.n) {
				return nil
			}
			if authoritative {
				sig, err := z.signer.sign(z.apex, set.owner, set.typ, set.tails, now)
				if err != nil {
					return err
				}
				if !r.addOne(section, old[at:at+set.first], sig) {
					return nil
				}
			}
			at, count = set.end, count-set.n
		}
	}
	deny := func(d denial, asked uint16) error {
		tail, err := d.nsec(asked)
		if err != nil {
			return err
		}
		sig, err := d.zone.signer.sign(d.zone.apex, string(d.name), typeNSEC, [][]byte{tail}, now)
		if err == nil && r.addOne(1, d.name, tail) {
			r.addOne(1, d.name, sig)
		}
		return err
	}
	switch {
	case cut != nil && cut.signer != nil:
		n := cut.nodes[cutName]
		if ds := n.sets[typeDS]; ds == nil {
			if err := deny(denial{cut, []byte(cutName), n}, typeDS); err != nil {
				return err
			}
		} else {
			var tails [][]byte
			for b := ds.tails; len(b) > 0; b = b[tailLen(b):] {
				tails = append(tails, b[:tailLen(b)])
			}
			for _, t := range tails {
				r.addOne(1, []byte(cutName), t)
			}
			sig, err := cut.signer.sign(cut.apex, cutName, typeDS, tails, now)
			if err != nil {
				return err
			}
			r.addOne(1, []byte(cutName), sig)
		}
	case r.denied.zone != nil && r.denied.zone.signer != nil:
		if err := deny(r.denied, q.typ); err != nil {
			return err
		}
		if r.rcode == rcodeNX && !q.co {
			// RFC 9824 section 3.1: the proof says that the name exists not; others see that it has no data
			r.rcode = rcodeOK
		}
	}
	if r.tc {
		return nil
	}
	for range ar { // addresses of hosts, as far as there is room
		set := readSet(old, at, 1)
		if len(r.out)+set.end-at+r.opt > r.limit {
			break
		}
		r.out = append(r.out, old[at:set.end]...)
		r.ar++
		at = set.end
	}
	return nil
}

// add copies records to a section; false when there is no room.
func (r *reply) add(section int, b []byte, n int) bool {
	if !r.room(len(b)) {
		r.tc = true
		return false
	}
	r.out = append(r.out, b...)
	if section == 0 {
		r.an += n
	} else {
		r.ns += n
	}
	return true
}

func (r *reply) addOne(section int, owner, tail []byte) bool {
	if !r.room(len(owner) + len(tail)) {
		r.tc = true
		return false
	}
	return r.add(section, append(append(make([]byte, 0, len(owner)+len(tail)), owner...), tail...), 1)
}

// recordSet is consecutive records of one owner and type in an answer.
type recordSet struct {
	owner string // lower case, expanded
	typ   uint16
	tails [][]byte
	n     int
	first int // bytes of the owner as it stands in the answer
	end   int
}

func readSet(b []byte, at, most int) (s recordSet) {
	for s.n < most {
		name, end := readName(b, at)
		tail := b[end : end+tailLen(b[end:])]
		typ := binary.BigEndian.Uint16(tail)
		if s.n == 0 {
			s.owner, s.typ, s.first = name, typ, end-at
		} else if name != s.owner || typ != s.typ {
			break
		}
		at = end + len(tail)
		s.tails, s.end = append(s.tails, tail), at
		s.n++
	}
	return s
}

// readName expands a name of an answer of ours, whose pointers point into the question.
func readName(b []byte, at int) (name string, end int) {
	var out []byte
	for {
		l := int(b[at])
		if l >= 0xc0 {
			if end == 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(b[at:])) & 0x3fff
			continue
		}
		out = append(out, byte(l))
		for _, c := range b[at+1 : at+1+l] {
			if c-'A' < 26 {
				c |= 0x20
			}
			out = append(out, c)
		}
		at += 1 + l
		if l == 0 {
			if end == 0 {
				end = at
			}
			return string(out), end
		}
	}
}
