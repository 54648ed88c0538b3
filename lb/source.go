package lb

import (
	"math/bits"
	"math/rand/v2"
)

// source of random numbers: the runtime's, which needs no lock, or, in simulations, one with a seed.
type source struct{ seeded *rand.PCG }

func (s source) next() uint64 {
	if s.seeded != nil {
		return s.seeded.Uint64()
	}
	return rand.Uint64()
}

// below is a number from 0 to n-1.
func (s source) below(n int) int {
	hi, _ := bits.Mul64(s.next(), uint64(n))
	return int(hi)
}
