package tick

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	window  = int64(10 * time.Millisecond) // what a grant promises
	settled = float64(2 * time.Minute)     // a counter that has run for less gives no grant
	pause   = 1 << 20                      // ticks between looks that give none
)

// grant is a promise for the near future: while the counter is in [from, from+span), the clock has not passed until.
type grant struct {
	from  atomic.Uint64
	until atomic.Int64
	span  atomic.Uint64 // 0: nothing is promised

	mu      sync.Mutex // guards what follows, and is held by those who write what stands above
	last    int64      // the last reading's clock
	stopped bool
}

// holds reports whether the promise says that the clock was before t when it was at count.
func (g *grant) holds(count uint64, t int64) bool {
	return count-g.from.Load() < g.span.Load() && g.until.Load() < t
}

// young reports whether the last look was so short a while ago that another would be of little use.
func (g *grant) young(count uint64) bool { return count-g.from.Load() < max(g.span.Load()/2, pause) }

// take gives a grant by a new reading, or takes back the one before. mu is held.
//
// A reader loads from, span and until, in this order. Whatever from it saw, the until that goes with it was written
// before, and until only grows: a later one with an earlier from promises less. Where a look gives no grant, the span
// is 0 before from is written.
func (g *grant) take(r reading, rate float64) {
	if r.mono < g.last {
		return
	}
	g.last = r.mono
	if g.stopped || rate == 0 || float64(r.before) < settled*rate {
		g.span.Store(0)
		g.from.Store(r.before)
		return
	}
	g.until.Store(r.mono + window)
	g.from.Store(r.before)
	g.span.Store(uint64(float64(window) / 2 * rate))
}

func (g *grant) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.span.Store(0)
}
