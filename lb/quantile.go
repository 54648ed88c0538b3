package lb

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets that grow by an eighth of a power of two, so that a quantile is right to within
// 7 %. An addition is one atomic increment.
type histogram struct {
	count   atomic.Uint64
	buckets [37 * 8]atomic.Uint32 // of microseconds: the last ends beyond 19 hours
}

func (h *histogram) add(d time.Duration) {
	us := max(uint64(d/time.Microsecond), 8)
	shift := bits.Len64(us) - 4 // four bits are kept, of which the first is always set
	h.buckets[min(shift*8+int(us>>shift&7), len(h.buckets)-1)].Add(1)
	h.count.Add(1)
}

// width of bucket i, and its beginning.
func (h *histogram) bounds(i int) (from, width time.Duration) {
	shift := i / 8
	return time.Duration(8+i%8) << shift * time.Microsecond, time.Microsecond << shift
}

func (h *histogram) clear() {
	for i := range h.buckets {
		h.buckets[i].Store(0)
	}
	h.count.Store(0)
}

// quantile over several histograms together; ok is false while they hold fewer than least.
func quantile(q float64, least uint64, hs ...*histogram) (d time.Duration, ok bool) {
	n := uint64(0)
	for _, h := range hs {
		n += h.count.Load()
	}
	if n == 0 || n < least {
		return 0, false
	}
	left := q * float64(n)
	last := 0
	for i := range hs[0].buckets {
		c := uint64(0)
		for _, h := range hs {
			c += uint64(h.buckets[i].Load())
		}
		if c == 0 {
			continue
		}
		last = i
		if left -= float64(c); left <= 0 {
			break
		}
	}
	from, width := hs[0].bounds(last)
	return from + width/2, true
}

// latencies are those of the last one to two windows.
type latencies struct {
	now    atomic.Uint32 // index of the histogram that is written
	until  atomic.Int64  // since the process began: the next takes over
	h      [2]histogram
	cached atomic.Int64 // last quantile
	fresh  atomic.Int64 // until when it holds
}

const (
	latencyWindow = 15 * time.Second
	latencyLeast  = 100 // fewer say nothing about a tail
)

func (l *latencies) add(d time.Duration) {
	now := int64(time.Since(began))
	if until := l.until.Load(); now >= until && l.until.CompareAndSwap(until, now+int64(latencyWindow)) {
		next := 1 - l.now.Load()
		l.h[next].clear()
		l.now.Store(next)
	}
	l.h[l.now.Load()].add(d)
}

// quantile is computed at most every 50 ms, and always for the same q.
func (l *latencies) quantile(q float64) (time.Duration, bool) {
	now := int64(time.Since(began))
	if fresh := l.fresh.Load(); now >= fresh && l.fresh.CompareAndSwap(fresh, now+int64(50*time.Millisecond)) {
		d, _ := quantile(q, latencyLeast, &l.h[0], &l.h[1])
		l.cached.Store(int64(d))
	}
	d := time.Duration(l.cached.Load())
	return d, d > 0
}
