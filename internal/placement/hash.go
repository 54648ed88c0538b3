package placement

import (
	"math/bits"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// HashVersion names the pair of hash functions below. Whoever stores a table stores it too and refuses another: the
// same key would sit in another slot.
const HashVersion = 1

// HashString is xxHash64 with seed 0.
func HashString(s string) uint64 { return xxhash.Sum64String(s) }

// HashUint64 is Stafford's variant 13 of the MurmurHash3 finaliser: a bijection whose top bits depend on all input
// bits.
func HashUint64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// SlotOf maps a hash onto [0, slots): its top bits where slots is a power of two.
func SlotOf(hash uint64, slots int) int {
	hi, _ := bits.Mul64(hash, uint64(slots))
	return int(hi)
}

// logTable[i] is log2(1+i/4096) in units of 2^-40, made with integers only: every machine must rank nodes alike, and
// floating-point logarithms differ between architectures.
var logTable = sync.OnceValue(func() *[4097]uint64 {
	var t [4097]uint64
	for i := range 4096 {
		m := 1<<63 | uint64(i)<<51 // mantissa in [1,2) as Q1.63; squaring it yields one bit of the logarithm at a time
		for b := 39; b >= 0; b-- {
			hi, _ := bits.Mul64(m, m) // Q2.62
			if hi>>63 != 0 {
				t[i] |= 1 << b
				m = hi
			} else {
				m = hi << 1
			}
		}
	}
	t[4096] = 1 << 40
	return &t
})

// negLog2 returns -log2((h+1)/2^64) in units of 2^-40, by linear interpolation (error below 2^-26).
func negLog2(h uint64) uint64 {
	if h == 1<<64-1 {
		return 0
	}
	h++
	n := bits.Len64(h) - 1
	m := h << (63 - n)
	i := m >> 51 & 4095
	frac := m >> 19 & (1<<32 - 1)
	t := logTable()
	return uint64(64-n)<<40 - (t[i] + (t[i+1]-t[i])*frac>>32)
}
