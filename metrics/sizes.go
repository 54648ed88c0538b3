package metrics

import (
	"math/bits"
	"sync/atomic"
)

// sizes counts bytes in buckets that grow fourfold, from 64 B to 64 MiB. Sizes of 0 are not counted here: they are what
// is missing to the number of requests, which saves every GET an addition.
type sizes struct {
	counts [sizeBuckets]atomic.Uint64
	sum    atomic.Uint64
}

const sizeBuckets = 12 // the last one is unbounded

// sizeBounds are the upper bounds, as they stand in an "le" label.
var sizeBounds = func() (b [sizeBuckets - 1]float64) {
	for i := range b {
		b[i] = float64(uint64(64) << (2 * i))
	}
	return b
}()

func (s *sizes) observe(n int64) {
	s.counts[sizeBucket(uint64(n))].Add(1)
	s.sum.Add(uint64(n))
}

func sizeBucket(n uint64) int {
	return min(max(bits.Len64(n-1)-5, 0)/2, sizeBuckets-1)
}

type sizesSnapshot struct {
	counts [sizeBuckets]uint64
	sum    uint64
}

func (s *sizes) addTo(t *sizesSnapshot) {
	for i := range s.counts {
		t.counts[i] += s.counts[i].Load()
	}
	t.sum += s.sum.Load()
}

// cumulate returns the counts at and below each bound, when there were n observations in all.
func (t *sizesSnapshot) cumulate(n uint64) (at [sizeBuckets]uint64) {
	var nonzero uint64
	for _, c := range t.counts {
		nonzero += c
	}
	seen := max(n, nonzero) - nonzero
	for i, c := range t.counts {
		seen += c
		at[i] = seen
	}
	return at
}
