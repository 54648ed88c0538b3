package tick

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shortest = int64(10 * time.Millisecond) // between the two readings of a measurement
	longest  = int64(time.Second)
	enough   = 3 // measurements
)

// reading is a look at the clock, between two at the counter.
type reading struct {
	before, after uint64
	mono, wall    int64 // nanoseconds
}

// apart reports whether other things went on during the reading, beside what a measurement of so many ticks may hide.
func (r reading) apart(ticks uint64) bool { return r.after-r.before > ticks/64 }

// pace is how fast the counter runs: all clocks of the process measure it together.
type pace struct {
	known atomic.Uint64 // the rate in ticks per nanosecond, as a float64; 0: not yet, or not any more
	slow  atomic.Bool   // the counter was seen to run slower: it is not used again

	mu       sync.Mutex // guards what follows
	anchor   reading    // where a measurement begins
	measured int
	lowest   float64
}

// rate is in ticks per nanosecond, 0 while it is not known.
func (p *pace) rate() float64 { return math.Float64frombits(p.known.Load()) }

// measure compares the counter with the clock, where a reading is far enough from the one before. The ticks are those
// that lie inside of the time, so that a rate is too low rather than too high.
func (p *pace) measure(r reading) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.anchor
	took := r.mono - a.mono
	if a.after != 0 && took >= 0 && took < shortest {
		return
	}
	p.anchor = r
	ticks := r.before - a.after
	if a.after == 0 || took < 0 || int64(ticks) <= 0 || a.apart(ticks) || r.apart(ticks) {
		return
	}
	rate := float64(ticks) / float64(took)
	if p.measured == enough {
		if rate < p.lowest*3/4 {
			p.slow.Store(true)
			p.known.Store(0)
		}
		return
	}
	if slept := r.wall - a.wall - took; took > longest || max(slept, -slept) > took/8 {
		return
	}
	if p.measured == 0 || rate < p.lowest {
		p.lowest = rate
	}
	if p.measured++; p.measured == enough {
		p.known.Store(math.Float64bits(p.lowest))
	}
}
