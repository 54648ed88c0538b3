package lb

import (
	"math/bits"
	"math/rand/v2"
)

// chance is where random numbers come from: the runtime's generator, which needs no lock, or, in simulations, one with
// a seed.
type chance struct{ seeded *rand.PCG }

func (c chance) next() uint64 {
	if c.seeded != nil {
		return c.seeded.Uint64()
	}
	return rand.Uint64()
}

// below is a number from 0 to n-1.
func (c chance) below(n int) int {
	hi, _ := bits.Mul64(c.next(), uint64(n))
	return int(hi)
}
