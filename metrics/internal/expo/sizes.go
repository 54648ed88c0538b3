package expo

import (
	"math/bits"
	"sync/atomic"
)

// Sizes counts bytes in buckets that grow fourfold, from 64 B to 64 MiB. Sizes of 0 are not counted here: they are what
// is missing to the number of requests, which saves every GET an addition. The zero value is ready; it is safe for
// concurrent use.
type Sizes struct {
	counts [sizeBuckets]atomic.Uint64
	sum    atomic.Uint64
}

const sizeBuckets = 12 // the last one is unbounded

var sizeBounds = func() *bounds {
	var b []float64
	for i := range sizeBuckets - 1 {
		b = append(b, float64(uint64(64)<<(2*i)))
	}
	return newBounds(b)
}()

// Observe counts one size, which must be above 0.
func (s *Sizes) Observe(n int64) {
	s.counts[sizeBucket(uint64(n))].Add(1)
	s.sum.Add(uint64(n))
}

func sizeBucket(n uint64) int {
	return min(max(bits.Len64(n-1)-5, 0)/2, sizeBuckets-1)
}

// SizesSnapshot are the counts at one moment.
type SizesSnapshot struct {
	counts [sizeBuckets]uint64
	sum    uint64
}

// AddTo adds what was observed to t.
func (s *Sizes) AddTo(t *SizesSnapshot) {
	for i := range s.counts {
		t.counts[i] += s.counts[i].Load()
	}
	t.sum += s.sum.Load()
}

// cumulate returns the counts at and below each bound, when there were n observations in all.
func (t *SizesSnapshot) cumulate(n uint64) (at [sizeBuckets]uint64) {
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

// Sizes adds a histogram of sizes of n requests.
func (f *Family) Sizes(l Labels, s *SizesSnapshot, n uint64) {
	at := s.cumulate(n)
	count := at[sizeBuckets-1]
	if f.page.format != Protobuf {
		f.textBuckets(l, sizeBounds, at[:], nil)
		f.sumAndCount(l, float64(s.sum), count)
		return
	}
	m := appendDouble(appendVarint(f.scratch[:0], 1, count), 2, float64(s.sum))
	f.scratch = appendProtoBuckets(m, sizeBounds, at[:], nil)
	f.protoMessage(l, 7, f.scratch)
}
