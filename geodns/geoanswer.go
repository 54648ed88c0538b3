package geodns

import (
	"encoding/binary"
	"net/netip"
)

// maxCenters bounds how many centers one answer names.
const maxCenters = 8

// geo adds the addresses of the client's center, or of its nearest few; false when there are none of the family.
func (r *reply) geo(g *geoName, pointer uint16, name string, client netip.Addr) bool {
	q := r.q
	if q.ecs && !q.asked {
		client = q.subnet
	}
	v := g.router.live.Load()
	var order [maxCenters]int
	k, length, _ := v.nearest(client, order[:g.centers])
	if q.ecs && !q.asked {
		r.scope = length
	}
	if k == 0 {
		if len(v.static) == 0 {
			r.rcode = rcodeFail
			return true
		}
		return r.addresses(v.static, g.n, g.ttl, pointer, name) > 0
	}
	given := 0
	for i, dc := range order[:k] {
		// What a center leaves of its part, those behind it may use; each has at least one address as long as there is
		// room.
		part := (g.n - given + k - i - 1) / (k - i)
		given += r.addresses(v.dcs[dc].addrs, part, g.ttl, pointer, name)
	}
	return given > 0
}

// addresses adds up to n addresses of the family that was asked for. Each query begins with another one, so that
// clients spread over the center's edges.
func (r *reply) addresses(addrs []netip.Addr, n int, ttl uint32, pointer uint16, name string) (given int) {
	want4, count := r.q.typ == typeA, 0
	for _, a := range addrs {
		if a.Is4() == want4 {
			count++
		}
	}
	if count == 0 {
		return 0
	}
	skip := int(r.q.id) % count
	size := 4
	if !want4 {
		size = 16
	}
	for pass := range 2 {
		i := 0
		for _, a := range addrs {
			if a.Is4() != want4 {
				continue
			}
			mine := (i >= skip) == (pass == 0)
			i++
			if !mine || given == n {
				continue
			}
			given++
			if !r.room(max(2, len(name)) + 10 + size) {
				r.tc = true
				return given
			}
			r.owner(pointer, name)
			r.out = binary.BigEndian.AppendUint16(r.out, r.q.typ)
			r.out = binary.BigEndian.AppendUint16(r.out, classIN)
			r.out = binary.BigEndian.AppendUint32(r.out, ttl)
			r.out = binary.BigEndian.AppendUint16(r.out, uint16(size))
			if want4 {
				b := a.As4()
				r.out = append(r.out, b[:]...)
			} else {
				b := a.As16()
				r.out = append(r.out, b[:]...)
			}
			r.an++
		}
	}
	return given
}
