package metrics

import (
	"math"
	"time"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Histogram counts durations, in buckets whose bounds grow by 2^(1/8): those of a Prometheus native histogram with
// schema 3, from 119 ns to 68 min. The zero value is ready; all methods are safe for concurrent use, and Observe takes
// no lock and allocates nothing. It takes about 1 kB.
type Histogram struct{ d expo.Durations }

// Observe counts one duration; a negative one counts as 0.
func (h *Histogram) Observe(d time.Duration) { h.d.Observe(d) }

// Snapshot copies the histogram as far as concurrent writers allow: each observation is either in it or not, and the
// sum of the buckets is always the count.
func (h *Histogram) Snapshot() HistogramSnapshot {
	var s expo.DurationsSnapshot
	h.d.AddTo(&s)
	return snapshotOf(&s)
}

// HistogramSnapshot is a histogram at one moment.
type HistogramSnapshot struct {
	Count  uint64
	Sum    time.Duration
	Max    time.Duration
	counts expo.Buckets
}

func snapshotOf(s *expo.DurationsSnapshot) HistogramSnapshot {
	return HistogramSnapshot{s.Count, s.Sum, s.Max, s.Counts}
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
		lo, hi := 0.0, expo.Upper(i)
		if i > 0 {
			lo = expo.Upper(i - 1)
		}
		return min(time.Duration((lo+(hi-lo)*(rank-seen)/float64(n))*1e9), s.Max)
	}
	return s.Max
}

// AtMost returns how many observations did not exceed d, which is rounded up to the next bound of the buckets: at most
// 9 % more.
func (s *HistogramSnapshot) AtMost(d time.Duration) (n uint64) {
	for i := 0; i <= expo.Bucket(d); i++ {
		n += s.counts[i]
	}
	return n
}

// Mean is the average, 0 when there are no observations.
func (s *HistogramSnapshot) Mean() time.Duration {
	if s.Count == 0 {
		return 0
	}
	return s.Sum / time.Duration(min(s.Count, math.MaxInt64))
}
