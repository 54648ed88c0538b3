package lb

import "math/rand/v2"

// source of random numbers: the runtime's, which needs no lock, or, in simulations, one with a seed.
type source struct{ seeded *rand.PCG }

func (s source) next() uint64 {
	if s.seeded != nil {
		return s.seeded.Uint64()
	}
	return rand.Uint64()
}
