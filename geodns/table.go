package geodns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
)

// Table is an immutable Locator over sorted ranges. Locate takes no lock and does not allocate.
//
// IPv6 is resolved to /64: no finer place of an address is of use, and one word compares fast.
type Table struct {
	at []Location // the distinct ones; 0 is unknown
	v4 ranges[uint32]
	v6 ranges[uint64]
	// first4[x] is the last range that starts at or before x<<16: a lookup searches only the ranges of its top 16 bits.
	first4 []uint32
	first6 []uint32 // the same on the top 16 bits of an IPv6 address
}

// ranges: range i covers start[i] up to start[i+1]; neighbors differ.
type ranges[T uint32 | uint64] struct {
	start []T
	of    []uint16
}

// Locate implements [Locator]. The prefix is the largest around addr in which every address is at the same place, which
// is the scope that an EDNS client subnet answer may claim.
func (t *Table) Locate(addr netip.Addr) (Location, netip.Prefix) {
	i, n := t.index(addr)
	p, _ := addr.Unmap().WithZone("").Prefix(n)
	return t.at[i], p
}

// index is Locate without building the values: the place and the prefix length.
func (t *Table) index(addr netip.Addr) (place uint16, length int) {
	if addr.Is4() || addr.Is4In6() {
		b := addr.As4()
		ip := binary.BigEndian.Uint32(b[:])
		i := find(t.v4.start, ip, t.first4[ip>>16], t.first4[ip>>16+1])
		return t.v4.of[i], 32 - t.v4.spare(i, ip, 32)
	}
	b := addr.As16()
	ip := binary.BigEndian.Uint64(b[:8])
	i := find(t.v6.start, ip, t.first6[ip>>48], t.first6[ip>>48+1])
	return t.v6.of[i], 64 - t.v6.spare(i, ip, 64)
}

// find returns the last range that starts at or before ip, known to be within lo to hi.
func find[T uint32 | uint64](start []T, ip T, lo, hi uint32) int {
	for lo < hi {
		if m := (lo + hi + 1) / 2; start[m] <= ip {
			lo = m
		} else {
			hi = m - 1
		}
	}
	return int(lo)
}

// spare is how many low bits of ip may change without leaving range i: the range holds the whole block unless the last
// address before it or the first behind it is in the block too.
func (r *ranges[T]) spare(i int, ip T, width int) int {
	k := width
	if s := r.start[i]; s > 0 {
		k = bits.Len64(uint64(ip^(s-1))) - 1
	}
	if i+1 < len(r.start) {
		k = min(k, bits.Len64(uint64(ip^r.start[i+1]))-1)
	}
	return k
}

// Len is the number of IPv4 and IPv6 ranges.
func (t *Table) Len() (v4, v6 int) { return len(t.v4.start), len(t.v6.start) }

// All yields the first address of each range with its location, IPv4 first, in order; a range ends where the next one
// of its family begins.
func (t *Table) All() iter.Seq2[netip.Addr, Location] {
	return func(yield func(netip.Addr, Location) bool) {
		for i, s := range t.v4.start {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], s)
			if !yield(netip.AddrFrom4(b), t.at[t.v4.of[i]]) {
				return
			}
		}
		for i, s := range t.v6.start {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], s)
			if !yield(netip.AddrFrom16(b), t.at[t.v6.of[i]]) {
				return
			}
		}
	}
}

// Builder collects ranges for a [Table]. The zero value is ready. It is not safe for concurrent use.
type Builder struct {
	at    []Location
	index map[Location]uint16
	v4    []span
	v6    []span
}

type span struct {
	first, last uint64
	at          uint16
}

// Add sets the location of all addresses from first to last (both included, of one family). Where ranges overlap the
// smaller one wins, and of equal ones the later.
func (b *Builder) Add(first, last netip.Addr, at Location) error {
	first, last = first.Unmap(), last.Unmap()
	if !first.IsValid() || first.BitLen() != last.BitLen() || last.Less(first) {
		return fmt.Errorf("geodns: range %v to %v: want two addresses of one family in order", first, last)
	}
	i, err := b.place(at)
	if err != nil {
		return err
	}
	if first.Is4() {
		x, y := first.As4(), last.As4()
		b.v4 = append(b.v4, span{uint64(binary.BigEndian.Uint32(x[:])), uint64(binary.BigEndian.Uint32(y[:])), i})
		return nil
	}
	x, y := first.As16(), last.As16()
	b.v6 = append(b.v6, span{binary.BigEndian.Uint64(x[:8]), binary.BigEndian.Uint64(y[:8]), i})
	return nil
}

// AddPrefix sets the location of a prefix.
func (b *Builder) AddPrefix(p netip.Prefix, at Location) error {
	if !p.IsValid() {
		return errors.New("geodns: invalid prefix")
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return fmt.Errorf("geodns: prefix %v: shorter than an IPv4-mapped address allows", p)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	raw := p.Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return b.Add(p.Addr(), last, at)
}

func (b *Builder) place(at Location) (uint16, error) {
	if b.index == nil {
		b.at = []Location{{}}
		b.index = map[Location]uint16{{}: 0}
	}
	if i, ok := b.index[at]; ok {
		return i, nil
	}
	if len(b.at) > 1<<16-1 {
		return 0, errors.New("geodns: more than 65535 distinct locations; round the coordinates")
	}
	i := uint16(len(b.at))
	b.at = append(b.at, at)
	b.index[at] = i
	return i, nil
}

// Build returns the table; the builder may be used on.
func (b *Builder) Build() (*Table, error) {
	if b.index == nil {
		b.place(Location{})
	}
	t := &Table{at: slices.Clone(b.at)}
	t.v4 = flatten[uint32](b.v4, 1<<32-1)
	t.v6 = flatten[uint64](b.v6, 1<<64-1)
	t.first4 = firsts(t.v4.start, 16)
	t.first6 = firsts(t.v6.start, 48)
	return t, nil
}

// flatten turns overlapping spans into ranges without gaps: sweep over the ends, the innermost span that is open wins.
func flatten[T uint32 | uint64](spans []span, max uint64) ranges[T] {
	out := ranges[T]{start: []T{0}, of: []uint16{0}}
	put := func(at uint64, of uint16) {
		n := len(out.start) - 1
		if uint64(out.start[n]) == at {
			out.of[n] = of
			if n > 0 && out.of[n-1] == of {
				out.start, out.of = out.start[:n], out.of[:n]
			}
			return
		}
		if out.of[n] != of {
			out.start, out.of = append(out.start, T(at)), append(out.of, of)
		}
	}
	s := slices.Clone(spans)
	sort.SliceStable(s, func(i, j int) bool {
		if s[i].first != s[j].first {
			return s[i].first < s[j].first
		}
		return s[i].last > s[j].last // the larger one opens first
	})
	var open []span
	closeUntil := func(limit uint64, all bool) {
		for len(open) > 0 {
			top := open[len(open)-1]
			if !all && top.last >= limit {
				return
			}
			open = open[:len(open)-1]
			if top.last == max {
				continue
			}
			// what is below and still open beyond this one's end goes on
			of := uint16(0)
			for len(open) > 0 && open[len(open)-1].last <= top.last {
				open = open[:len(open)-1]
			}
			if len(open) > 0 {
				of = open[len(open)-1].at
			}
			put(top.last+1, of)
		}
	}
	for _, x := range s {
		closeUntil(x.first, false)
		put(x.first, x.at)
		open = append(open, x)
	}
	closeUntil(0, true)
	return out
}

func firsts[T uint32 | uint64](start []T, shift int) []uint32 {
	out := make([]uint32, 1<<16+1)
	i := 0
	for b := range 1 << 16 {
		for i+1 < len(start) && uint64(start[i+1]) <= uint64(b)<<shift {
			i++
		}
		out[b] = uint32(i)
	}
	out[1<<16] = uint32(len(start) - 1)
	return out
}
