package geodns

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// reply is an answer under construction in out, which the caller owns; nothing is allocated while out has room.
type reply struct {
	q     *query
	out   []byte
	limit int // bytes that the client takes
	rcode int
	aa    bool
	tc    bool
	full  bool // a record did not fit
	an    int
	ns    int
	ar    int
	scope int // of the client subnet
	opt   int // bytes that the OPT record will need

	denied denial
}

// answer builds the whole reply to a packet that parsed as v. client is the address to locate; packet holds the
// question, whose letter case is echoed.
func (s *zoneSet) answer(q *query, v verdict, packet []byte, client netip.Addr, out []byte, limit int) reply {
	r := reply{q: q, out: out[:0], limit: limit}
	if q.edns {
		r.opt = 11
		if q.ecs {
			r.opt += 8 + (q.source+7)/8
		}
		if q.cookie {
			r.opt += 28
		}
	}
	r.out = append(r.out, packet[:q.end]...)
	switch {
	case v == badForm:
		r.rcode = rcodeForm
		r.opt, q.edns = 0, false // what was read of it is not to be relied on
	case q.opcode != 0:
		r.rcode = rcodeNotImp
	case q.edns && q.version != 0:
		r.rcode = rcodeBadVers
	case q.typ == typeAXFR || q.typ == typeIXFR || q.class != classIN && q.class != classANY:
		r.rcode = rcodeRefused
	case q.typ == typeOPT || q.typ == typeNXNAME:
		r.rcode = rcodeForm
	default:
		s.resolve(&r, client)
		if q.do && s.signed && !r.tc {
			if err := s.secure(&r, time.Now()); err != nil {
				r.fail()
			}
		}
	}
	r.finish(packet)
	return r
}

// fail takes back what was said: an answer without its proof would be taken for a forgery.
func (r *reply) fail() {
	r.out = r.out[:r.q.end]
	r.an, r.ns, r.ar, r.rcode = 0, 0, 0, rcodeFail
}

// resolve finds the records. It follows RFC 1034 section 4.3.2.
func (s *zoneSet) resolve(r *reply, client netip.Addr) {
	q := r.q
	z, apex := s.find(q.name[:q.length])
	if z != nil && q.typ == typeDS && apex == 0 && q.length > 1 { // RFC 4035 section 3.1.4.1: what the parent knows
		skip := 1 + int(q.name[0])
		if p, at := s.find(q.name[skip:q.length]); p != nil {
			// A parent that does not delegate to the child would deny that it exists.
			if _, cut, cutAt := p.lookup(q.name[:q.length], at+skip); cut != nil && cutAt == 0 {
				z, apex = p, at+skip
			}
		}
	}
	if z == nil {
		r.rcode = rcodeRefused
		return
	}
	r.aa = true
	name := q.name[:q.length]
	owner := uint16(0xc00c) // pointer to the question's name
	var ownerName string    // used instead of the pointer after a CNAME
	for hop := 0; ; hop++ {
		n, cut, cutAt := z.lookup(name, apex)
		if cut != nil && cutAt == 0 && q.typ == typeDS {
			n, cut = cut, nil
		}
		if cut != nil {
			r.referral(z, cut, name[cutAt:], hop == 0, cutAt)
			return
		}
		if n == nil {
			r.rcode = rcodeNX
			r.negative(z, apex, name, nil)
			return
		}
		if n.cname != "" && q.typ != typeCNAME && q.typ != typeANY {
			set := n.sets[typeCNAME]
			r.records(owner, ownerName, set.tails)
			target := n.cname
			if hop == 8 || r.full || target == string(q.name[:q.length]) { // a loop
				return
			}
			next, at := s.find(n.target)
			if next == nil {
				return // elsewhere: the resolver goes on
			}
			z, apex, name = next, at, n.target
			ownerName = target
			continue
		}
		source := n // of addresses
		if n.alias != "" && (q.typ == typeA || q.typ == typeAAAA) {
			to := s.aliased(n)
			if to == nil {
				r.negative(z, apex, name, n)
				return
			}
			source = to
		}
		if source.geo != nil && (q.typ == typeA || q.typ == typeAAAA) {
			if !r.geo(source.geo, owner, ownerName, client) {
				r.negative(z, apex, name, n)
			}
			return
		}
		if q.typ == typeANY || q.typ == typeRRSIG && z.signer != nil {
			r.hinfo(owner, ownerName)
			return
		}
		if q.typ == typeNSEC && z.signer != nil {
			d := denial{z, name, n}
			if tail, err := d.nsec(typeNSEC); err == nil {
				r.records(owner, ownerName, tail)
				return
			}
		}
		set := source.sets[q.typ]
		if set == nil {
			r.negative(z, apex, name, n)
			return
		}
		r.records(owner, ownerName, set.tails)
		r.additional(set)
		return
	}
}

// aliased follows an alias to the node whose addresses it takes; nil when its target does not exist.
func (s *zoneSet) aliased(n *node) *node {
	for range 8 {
		if n.target == nil {
			return n
		}
		z, apex := s.find(n.target)
		if z == nil {
			return nil
		}
		var cut *node
		if n, cut, _ = z.lookup(n.target, apex); n == nil || cut != nil {
			return nil
		}
	}
	return nil
}

// lookup finds the node of a name: itself, else the wildcard at its closest encloser (RFC 4592). A delegation on the
// way wins over both.
func (z *zoneData) lookup(name []byte, apex int) (n, cut *node, cutAt int) {
	if z.cuts {
		// from the top down: the highest delegation counts
		var starts [128]int
		k := 0
		for at := 0; at < apex; at += 1 + int(name[at]) {
			starts[k] = at
			k++
		}
		for i := k - 1; i >= 0; i-- {
			if c := z.nodes[string(name[starts[i]:])]; c != nil && c.cut {
				return nil, c, starts[i]
			} else if c == nil {
				break
			}
		}
	}
	if n = z.nodes[string(name)]; n != nil {
		return n, nil, 0
	}
	var star [258]byte
	star[0], star[1] = 1, '*'
	for at := 0; at < apex; {
		at += 1 + int(name[at])
		if z.nodes[string(name[at:])] != nil { // the closest encloser
			k := copy(star[2:], name[at:])
			return z.nodes[string(star[:2+k])], nil, 0
		}
	}
	return nil, nil, 0
}

// room is whether n more bytes fit beside the OPT record. Once something did not fit nothing more is added.
func (r *reply) room(n int) bool {
	if r.full || len(r.out)+n+r.opt > r.limit {
		r.full = true
		return false
	}
	return true
}

func (r *reply) owner(pointer uint16, name string) {
	if name != "" {
		r.out = append(r.out, name...)
	} else {
		r.out = append(r.out, byte(pointer>>8), byte(pointer))
	}
}

// records adds a set to the answer section.
func (r *reply) records(pointer uint16, name string, tails []byte) {
	for len(tails) > 0 {
		n := tailLen(tails)
		if !r.room(n + max(2, len(name))) {
			r.tc = true
			return
		}
		r.owner(pointer, name)
		r.out = append(r.out, tails[:n]...)
		tails = tails[n:]
		r.an++
	}
}

// additional adds addresses of the hosts that the answer names, as far as they fit: they are a courtesy.
func (r *reply) additional(set *rrset) {
	for _, g := range set.glue {
		for tails := g.tails; len(tails) > 0; {
			n := tailLen(tails)
			if len(r.out)+len(g.owner)+n+r.opt > r.limit {
				return
			}
			r.out = append(append(r.out, g.owner...), tails[:n]...)
			tails = tails[n:]
			r.ar++
		}
	}
}

// negative adds the SOA that bounds how long the absence may be believed. The owner points at the zone's name within
// the question when it is a part of it.
func (r *reply) negative(z *zoneData, apex int, name []byte, n *node) {
	r.denied = denial{z, name, n}
	if len(r.out)+len(z.apex)+len(z.negative)+r.opt > r.limit {
		return
	}
	if r.an == 0 {
		r.owner(0xc000|uint16(12+apex), "")
	} else {
		r.owner(0, z.apex)
	}
	r.out = append(r.out, z.negative...)
	r.ns++
}

// referral sends the resolver to the servers of a delegated part, with their addresses: without glue it could not go
// on.
func (r *reply) referral(z *zoneData, cut *node, name []byte, first bool, at int) {
	if r.an == 0 {
		r.aa = false
	}
	set := cut.sets[typeNS]
	for tails := set.tails; len(tails) > 0; {
		n := tailLen(tails)
		if !r.room(n + len(name)) {
			r.tc = true
			return
		}
		if first {
			r.owner(0xc000|uint16(12+at), "")
		} else {
			r.out = append(r.out, name...)
		}
		r.out = append(r.out, tails[:n]...)
		tails = tails[n:]
		r.ns++
	}
	before := r.ar
	r.additional(set)
	if len(set.glue) > 0 && r.ar == before {
		r.tc = true
	}
}

// hinfo is the minimal answer to ANY (RFC 8482 section 4.2): it gives attackers nothing to amplify with.
func (r *reply) hinfo(pointer uint16, name string) {
	const data = "\x07RFC8482\x00"
	if !r.room(max(2, len(name)) + 10 + len(data)) {
		r.tc = true
		return
	}
	r.owner(pointer, name)
	r.out = binary.BigEndian.AppendUint16(r.out, typeHINFO)
	r.out = binary.BigEndian.AppendUint16(r.out, classIN)
	r.out = binary.BigEndian.AppendUint32(r.out, 3600)
	r.out = binary.BigEndian.AppendUint16(r.out, uint16(len(data)))
	r.out = append(r.out, data...)
	r.an++
}

// finish adds the OPT record and writes the header.
func (r *reply) finish(packet []byte) {
	q := r.q
	if r.tc { // a part of an answer is of no use: the client asks again by TCP
		r.out = r.out[:q.end]
		r.an, r.ns, r.ar = 0, 0, 0
	}
	if q.edns {
		r.out = append(r.out, 0, 0, typeOPT)
		r.out = binary.BigEndian.AppendUint16(r.out, 1232)
		r.out = append(r.out, byte(r.rcode>>4), 0)
		flags := byte(0)
		if q.do {
			flags = 0x80
		}
		if q.co {
			flags |= 0x40
		}
		r.out = append(r.out, flags, 0)
		r.out = binary.BigEndian.AppendUint16(r.out, uint16(r.opt-11))
		if q.ecs {
			n := (q.source + 7) / 8
			r.out = binary.BigEndian.AppendUint16(r.out, optECS)
			r.out = binary.BigEndian.AppendUint16(r.out, uint16(4+n))
			r.out = binary.BigEndian.AppendUint16(r.out, q.family)
			r.out = append(r.out, byte(q.source), byte(r.scope))
			b := q.subnet.As16()
			if q.family == 1 {
				r.out = append(r.out, b[12:12+n]...)
			} else {
				r.out = append(r.out, b[:n]...)
			}
		}
		if q.cookie {
			r.out = binary.BigEndian.AppendUint16(r.out, optCookie)
			r.out = binary.BigEndian.AppendUint16(r.out, 24)
			r.out = append(append(r.out, q.client[:]...), q.server[:]...)
		}
		r.ar++
	}
	h := r.out[:12]
	h[2] = 0x80 | q.opcode<<3
	if r.aa && r.rcode != rcodeRefused {
		h[2] |= 0x04
	}
	if r.tc {
		h[2] |= 0x02
	}
	if q.rd {
		h[2] |= 0x01
	}
	h[3] = byte(r.rcode & 15)
	questions := uint16(1)
	if q.end == 12 {
		questions = 0
	}
	binary.BigEndian.PutUint16(h[4:], questions)
	binary.BigEndian.PutUint16(h[6:], uint16(r.an))
	binary.BigEndian.PutUint16(h[8:], uint16(r.ns))
	binary.BigEndian.PutUint16(h[10:], uint16(r.ar))
}
