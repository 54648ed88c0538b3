package geodns

import (
	"encoding/binary"
	"net/netip"
)

// DNS constants (RFC 1035, 6891, 7871).
const (
	typeA, typeNS, typeCNAME, typeHINFO, typeAAAA, typeOPT, typeDS = 1, 2, 5, 13, 28, 41, 43
	typeIXFR, typeAXFR, typeANY                                    = 251, 252, 255
	classIN, classANY                                              = 1, 255
	optECS, optCookie                                              = 8, 10

	rcodeOK, rcodeForm, rcodeFail, rcodeNX, rcodeNotImp, rcodeRefused, rcodeBadVers = 0, 1, 2, 3, 4, 5, 16
)

// query is a parsed question. It points into the packet.
type query struct {
	name [256]byte // lower case, wire form
	head
}

// head is what parse begins with anew; the name is only ever overwritten.
type head struct {
	id     uint16
	rd     bool
	opcode byte
	length int // of name
	end    int // of the question in the packet
	typ    uint16
	class  uint16

	edns    bool
	version byte
	do      bool // DNSSEC is wanted (RFC 3225)
	co      bool // compact denial is understood (RFC 9824 section 5.1)
	size    int  // the client's UDP size

	ecs    bool
	family uint16
	source int // prefix length of the subnet
	subnet netip.Addr
	cookie bool // RFC 7873
	shown  bool // with a server's half
	client [8]byte
	server [16]byte

	asked bool // ECS with source 0: the client's address is not to be used
}

type verdict uint8

const (
	parsed verdict = iota
	drop           // not a query, or too short to be answered
	badForm
)

// parse reads a query. What can't be a query is dropped: answering it would let two servers talk to each other for
// ever.
func (q *query) parse(b []byte) verdict {
	q.head = head{}
	if len(b) < 12 || b[2]&0x80 != 0 {
		return drop
	}
	q.id = binary.BigEndian.Uint16(b)
	q.rd = b[2]&1 != 0
	q.opcode = b[2] >> 3 & 15
	q.end = 12
	if q.opcode != 0 {
		return parsed
	}
	if binary.BigEndian.Uint16(b[4:]) != 1 || binary.BigEndian.Uint16(b[6:]) != 0 {
		return badForm
	}
	at, length := 12, 0
	for {
		if at >= len(b) {
			return badForm
		}
		l := int(b[at])
		// no compression: there is nothing before the question to point to
		if l > 63 || length+l+1 > 255 || at+l+1 > len(b) {
			return badForm
		}
		label, to := b[at:at+l+1], q.name[length:length+l+1]
		to[0] = byte(l)
		for i := 1; i < len(label) && i < len(to); i++ {
			c := label[i]
			if c-'A' < 26 {
				c |= 0x20
			}
			to[i] = c
		}
		at += l + 1
		length += l + 1
		if l == 0 {
			break
		}
	}
	q.length = length
	if at+4 > len(b) {
		return badForm
	}
	q.typ = binary.BigEndian.Uint16(b[at:])
	q.class = binary.BigEndian.Uint16(b[at+2:])
	at += 4
	q.end = at
	records := int(binary.BigEndian.Uint16(b[8:])) + int(binary.BigEndian.Uint16(b[10:]))
	for range records {
		start := at
		if at = skipName(b, at); at < 0 || at+10 > len(b) {
			return badForm
		}
		typ := binary.BigEndian.Uint16(b[at:])
		n := int(binary.BigEndian.Uint16(b[at+8:]))
		data := at + 10
		if data+n > len(b) {
			return badForm
		}
		if typ == typeOPT {
			if q.edns || b[start] != 0 {
				return badForm // RFC 6891 section 6.1.1: one, at the root
			}
			q.edns = true
			q.size = int(binary.BigEndian.Uint16(b[at+2:]))
			q.version = b[at+5]
			q.do, q.co = b[at+6]&0x80 != 0, b[at+6]&0x40 != 0
			if q.version == 0 && !q.options(b[data:data+n]) {
				return badForm
			}
		}
		at = data + n
	}
	return parsed
}

// options reads the client subnet (RFC 7871 section 6 and 7.2.1).
func (q *query) options(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return false
		}
		data := b[4 : 4+n]
		b = b[4+n:]
		if code == optCookie && !q.cookie {
			if n != 8 && (n < 16 || n > 40) {
				return false
			}
			q.cookie = true
			copy(q.client[:], data)
			if n == 24 { // others are no cookies of ours
				q.shown = true
				copy(q.server[:], data[8:])
			}
			continue
		}
		if code != optECS || q.ecs {
			continue
		}
		if n < 4 || data[3] != 0 {
			return false
		}
		q.family, q.source = binary.BigEndian.Uint16(data), int(data[2])
		addr := data[4:]
		if len(addr) != (q.source+7)/8 {
			return false
		}
		var full [16]byte
		switch q.family {
		case 1:
			if q.source > 32 {
				return false
			}
			copy(full[:], addr)
			q.subnet = netip.AddrFrom4([4]byte(full[:4]))
		case 2:
			if q.source > 128 {
				return false
			}
			copy(full[:], addr)
			q.subnet = netip.AddrFrom16(full)
		default:
			if q.source != 0 || q.family != 0 {
				return false
			}
		}
		if r := q.source % 8; r != 0 && addr[len(addr)-1]<<r != 0 {
			return false // bits beyond the prefix must be 0
		}
		q.ecs = true
		q.asked = q.source == 0
	}
	return true
}

func skipName(b []byte, at int) int {
	for at < len(b) {
		switch l := int(b[at]); {
		case l == 0:
			return at + 1
		case l >= 0xc0:
			return at + 2
		case l > 63:
			return -1
		default:
			at += l + 1
		}
	}
	return -1
}
