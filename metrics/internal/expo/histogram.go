package expo

import (
	"math"
	"sync/atomic"
	"time"
)

// Durations are counted in buckets whose bounds grow by 2^(1/8), which are those of a Prometheus native histogram with
// schema 3: bucket i holds (2^((i-1)/8), 2^(i/8)] seconds.
const (
	schema     = 3
	firstIndex = -23 * 8 // 2^-23 s = 119 ns
	lastIndex  = 12 * 8  // 2^12 s = 68 min
	// NumBuckets counts the buckets. The first holds everything below its bound, the last everything above.
	NumBuckets = lastIndex - firstIndex + 2
)

// mantissa[i] is 2^(i/8), the bounds within one power of two.
var mantissa = [8]float64{1, 1.0905077326652577, 1.189207115002721, 1.2968395546510096, 1.4142135623730951,
	1.5422108254079407, 1.681792830507429, 1.8340080864093424}

// Buckets are the counts of a histogram of durations.
type Buckets [NumBuckets]uint64

// Durations counts durations. The zero value is ready; all methods are safe for concurrent use, and Observe takes no
// lock and allocates nothing.
type Durations struct {
	counts [NumBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
	max    atomic.Int64
}

// Observe counts one duration; a negative one counts as 0.
func (h *Durations) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[Bucket(d)].Add(1)
	h.sum.Add(int64(d))
	for m := h.max.Load(); int64(d) > m && !h.max.CompareAndSwap(m, int64(d)); m = h.max.Load() {
	}
}

// Bucket returns the bucket of d: the octave by the exponent of the float, then the eighth of the octave by comparing
// mantissas.
func Bucket(d time.Duration) int {
	if d <= 119 { // everything below the first bound
		return 0
	}
	b := math.Float64bits(float64(d) / 1e9)
	exp := int(b>>52) - 1023
	m := math.Float64frombits(b&(1<<52-1) | 1023<<52)
	lo := 0
	if m > mantissa[4] {
		lo = 4
	}
	if m > mantissa[lo+2] {
		lo += 2
	}
	if m > mantissa[lo+1] {
		lo++
	}
	if m > mantissa[lo] {
		lo++ // the bound itself belongs to the lower bucket
	}
	return min(max(exp*8+lo-firstIndex, 0), NumBuckets-1)
}

// Upper returns the upper bound of a bucket in seconds.
func Upper(i int) float64 {
	i += firstIndex
	return math.Ldexp(mantissa[i&7], i>>3)
}

// DurationsSnapshot is a histogram at one moment.
type DurationsSnapshot struct {
	Count  uint64
	Sum    time.Duration
	Max    time.Duration
	Counts Buckets
}

// AddTo adds what was observed to s.
func (h *Durations) AddTo(s *DurationsSnapshot) {
	for i := range h.counts {
		if n := h.counts[i].Load(); n != 0 {
			s.Counts[i] += n
			s.Count += n
		}
	}
	s.Sum += time.Duration(h.sum.Load())
	s.Max = max(s.Max, time.Duration(h.max.Load()))
}

// classicBounds are a subset of the native bounds, so that one set of counts serves both kinds of histogram: powers of
// two from about 0.5 ms to 16 s.
var classicBounds = [...]int{-11 * 8, -9 * 8, -8 * 8, -7 * 8, -6 * 8, -5 * 8, -4 * 8, -3 * 8, -2 * 8, -8, 0, 8, 2 * 8,
	4 * 8}

const classicBuckets = len(classicBounds) + 1

// classicBucket is the first classic bound that a duration does not exceed; len(classicBounds) is +Inf.
func classicBucket(d time.Duration) int {
	i, c := Bucket(d)+firstIndex, 0
	for c < len(classicBounds) && i > classicBounds[c] {
		c++
	}
	return c
}

// classic cumulates the counts at the classic bounds; the last one is +Inf.
func (s *DurationsSnapshot) classic() (at [classicBuckets]uint64) {
	i, seen := 0, uint64(0)
	for c, bound := range classicBounds {
		for ; i+firstIndex <= bound; i++ {
			seen += s.Counts[i]
		}
		at[c] = seen
	}
	at[len(classicBounds)] = s.Count
	return at
}

// Exemplars keep, for each classic bucket, the trace of the latest sampled request in it. The zero value is ready; they
// are safe for concurrent use.
type Exemplars [classicBuckets]atomic.Pointer[exemplar]

type exemplar struct {
	trace string
	value float64
	at    time.Time
}

// Keep keeps the trace of an observation.
func (e *Exemplars) Keep(trace string, took time.Duration) {
	e[classicBucket(took)].Store(&exemplar{trace, took.Seconds(), time.Now()})
}
