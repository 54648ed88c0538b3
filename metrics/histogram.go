package metrics

import (
	"math"
	"sync/atomic"
	"time"
)

// Durations are counted in buckets whose bounds grow by 2^(1/8), which are those of a Prometheus native histogram with
// schema 3: bucket i holds (2^((i-1)/8), 2^(i/8)] seconds. The quantiles read from it are within 4.5 % of the true
// ones.
const (
	schema     = 3
	firstIndex = -23 * 8 // 2^-23 s = 119 ns
	lastIndex  = 12 * 8  // 2^12 s = 68 min
	buckets    = lastIndex - firstIndex + 2
)

// mantissa[i] is 2^(i/8), the bounds within one power of two.
var mantissa = [8]float64{1, 1.0905077326652577, 1.189207115002721, 1.2968395546510096, 1.4142135623730951,
	1.5422108254079407, 1.681792830507429, 1.8340080864093424}

// Histogram counts durations. The zero value is ready; all methods are safe for concurrent use, and Observe takes no
// lock and allocates nothing. The sum of the buckets is always the count.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
	max    atomic.Int64
}

// Observe counts one duration; a negative one counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(d)].Add(1)
	h.sum.Add(int64(d))
	for m := h.max.Load(); int64(d) > m && !h.max.CompareAndSwap(m, int64(d)); m = h.max.Load() {
	}
}

// bucket returns the place of d: frexp by bit length, then the eighth of the octave by comparing mantissas.
func bucket(d time.Duration) int {
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
	return min(max(exp*8+lo-firstIndex, 0), buckets-1)
}

// upper is the upper bound of a bucket in seconds.
func upper(i int) float64 {
	i += firstIndex
	return math.Ldexp(mantissa[i&7], i>>3)
}

// HistogramSnapshot is a histogram at one moment, as far as concurrent writers allow: each observation is either in it
// or not.
type HistogramSnapshot struct {
	Count  uint64
	Sum    time.Duration
	Max    time.Duration
	counts [buckets]uint64
}

// Snapshot copies the histogram.
func (h *Histogram) Snapshot() HistogramSnapshot {
	var s HistogramSnapshot
	h.addTo(&s)
	return s
}

func (h *Histogram) addTo(s *HistogramSnapshot) {
	for i := range h.counts {
		if n := h.counts[i].Load(); n != 0 {
			s.counts[i] += n
			s.Count += n
		}
	}
	s.Sum += time.Duration(h.sum.Load())
	s.Max = max(s.Max, time.Duration(h.max.Load()))
}

// Merge adds another snapshot.
func (s *HistogramSnapshot) Merge(o HistogramSnapshot) {
	for i, n := range o.counts {
		s.counts[i] += n
	}
	s.Count += o.Count
	s.Sum += o.Sum
	s.Max = max(s.Max, o.Max)
}

// Sub returns what was observed since an earlier snapshot of the same histogram. Max stays that of the whole time.
func (s HistogramSnapshot) Sub(earlier HistogramSnapshot) HistogramSnapshot {
	for i, n := range earlier.counts {
		s.counts[i] -= n
	}
	s.Count -= earlier.Count
	s.Sum -= earlier.Sum
	return s
}

// Quantile returns the duration that a share q of the observations does not exceed, interpolated within its bucket and
// never above Max; 0 when there are none.
func (s *HistogramSnapshot) Quantile(q float64) time.Duration {
	if s.Count == 0 {
		return 0
	}
	rank := q * float64(s.Count)
	seen := 0.0
	for i, n := range s.counts {
		if n == 0 || seen+float64(n) < rank {
			seen += float64(n)
			continue
		}
		lo, hi := 0.0, upper(i)
		if i > 0 {
			lo = upper(i - 1)
		}
		return min(time.Duration((lo+(hi-lo)*(rank-seen)/float64(n))*1e9), s.Max)
	}
	return s.Max
}

// Mean is the average, 0 when there are no observations.
func (s *HistogramSnapshot) Mean() time.Duration {
	if s.Count == 0 {
		return 0
	}
	return s.Sum / time.Duration(s.Count)
}
