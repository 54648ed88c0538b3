package geodns

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// DNS cookies (RFC 7873) prove that a client is where it says it is: only who received an answer can show its cookie. A
// client that shows a good one is not rate limited. The server's half is that of RFC 9018, so that all servers with one
// secret accept each other's: version, time and SipHash-2-4 over both and the client's address.
type cookieJar struct{ k0, k1 uint64 }

func newCookieJar(secret []byte) *cookieJar {
	return &cookieJar{binary.LittleEndian.Uint64(secret), binary.LittleEndian.Uint64(secret[8:])}
}

// bake writes the server's half for a client.
func (j *cookieJar) bake(dst *[16]byte, client [8]byte, addr netip.Addr, now uint32) {
	dst[0], dst[1], dst[2], dst[3] = 1, 0, 0, 0
	binary.BigEndian.PutUint32(dst[4:], now)
	var in [32]byte // client 8, version and time 8, address 4 or 16
	copy(in[:8], client[:])
	copy(in[8:16], dst[:8])
	n := 20
	if addr.Is4() {
		a := addr.As4()
		copy(in[16:], a[:])
	} else {
		a := addr.As16()
		copy(in[16:], a[:])
		n = 32
	}
	binary.LittleEndian.PutUint64(dst[8:], sip(j.k0, j.k1, in[:n]))
}

// good is whether the cookie that a query shows is one of ours, not older than an hour and not from the future (RFC
// 9018 section 4.3).
func (j *cookieJar) good(q *query, addr netip.Addr, now time.Time) bool {
	if !q.shown {
		return false
	}
	at := binary.BigEndian.Uint32(q.server[4:])
	if age := int32(uint32(now.Unix()) - at); age > 3600 || age < -300 {
		return false
	}
	var want [16]byte
	j.bake(&want, q.client, addr, at)
	return want == q.server
}

// sip is SipHash-2-4 (Aumasson and Bernstein 2012).
func sip(k0, k1 uint64, in []byte) uint64 {
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(in)) << 56
	for ; len(in) >= 8; in = in[8:] {
		m := binary.LittleEndian.Uint64(in)
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	for i, b := range in {
		last |= uint64(b) << (8 * i)
	}
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
