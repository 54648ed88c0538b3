// Package lottery draws indices at random in proportion to weights.
package lottery

import (
	"math/bits"
	"math/rand/v2"
)

// Source is where random numbers come from. The zero value is the runtime's generator, which needs no lock.
type Source struct{ seeded *rand.PCG }

// Seeded returns a source for simulations, which is not safe for concurrent use.
func Seeded(a, b uint64) Source { return Source{rand.NewPCG(a, b)} }

// Split returns a source whose numbers follow from those of s, for use at the same time. A source without a seed is
// its own.
func (s Source) Split() Source {
	if s.seeded == nil {
		return s
	}
	return Seeded(s.Next(), 0)
}

// Next returns 64 random bits.
func (s Source) Next() uint64 {
	if s.seeded != nil {
		return s.seeded.Uint64()
	}
	return rand.Uint64()
}

// Below returns a number from 0 to n-1.
func (s Source) Below(n int) int {
	hi, _ := bits.Mul64(s.Next(), uint64(n))
	return int(hi)
}

// Lottery draws by weight in constant time (Vose, "A Linear Algorithm for Generating Random Numbers With a Given
// Distribution", 1991). With equal weights there is nothing to look up. It is safe for concurrent use if its source is.
type Lottery struct {
	n       int
	mean    float64  // weight
	columns []column // nil: all weights are equal
	src     Source
}

// column belongs to its own index below limit and to alias above.
type column struct {
	limit uint64
	alias int
}

// New returns a lottery over the indices of weights, which are positive; there is at least one.
func New(weights []float64, src Source) *Lottery {
	l := &Lottery{n: len(weights), src: src}
	sum, equal := 0.0, true
	for _, w := range weights {
		sum += w
		equal = equal && w == weights[0]
	}
	l.mean = sum / float64(len(weights))
	if !equal {
		l.columns = columns(weights, sum)
	}
	return l
}

func columns(weights []float64, sum float64) []column {
	n := len(weights)
	p := make([]float64, n)
	var small, large []int
	for i, w := range weights {
		p[i] = w / sum * float64(n)
		if p[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	out := make([]column, n)
	for i := range out {
		out[i] = column{^uint64(0), i}
	}
	for len(small) > 0 && len(large) > 0 {
		s, g := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		out[s] = column{uint64(p[s]*(1<<63)) << 1, g}
		if p[g] -= 1 - p[s]; p[g] < 1 {
			large = large[:len(large)-1]
			small = append(small, g)
		}
	}
	return out
}

// Mean returns the mean weight.
func (l *Lottery) Mean() float64 { return l.mean }

// Next draws an index.
func (l *Lottery) Next() int { return l.At(l.src.Next()) }

// At maps a uniform number to an index: the upper word of a product is the column, the lower one is uniform within it.
func (l *Lottery) At(u uint64) int {
	hi, in := bits.Mul64(u, uint64(l.n))
	if l.columns == nil {
		return int(hi)
	}
	c := &l.columns[hi] // both are read, so that no branch depends on the draw
	i := c.alias
	if in < c.limit {
		i = int(hi)
	}
	return i
}

// Two draws two different indices, if there are two.
func (l *Lottery) Two() (i, j int) {
	u := l.src.Next()
	i = l.At(u)
	if j = l.At(u<<32 | u>>32); j != i { // one number has bits enough for both
		return i, j
	}
	for range 3 {
		if j = l.At(l.src.Next()); j != i {
			return i, j
		}
	}
	if j = l.src.Below(l.n); j == i { // one has nearly all the weight: any other
		j = (j + 1) % l.n
	}
	return i, j
}
