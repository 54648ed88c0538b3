package lb

import (
	"math/bits"
	"time"
)

// Random takes any backend, in proportion to the weights.
func Random() Policy { return randomPolicy{} }

type randomPolicy struct{ src chance }

func (p randomPolicy) Picker(bs []*Backend) Picker { return newLottery(bs, p.src) }

// lottery draws by weight in constant time (Vose, "A Linear Algorithm for Generating Random Numbers With a Given
// Distribution", 1991). With equal weights there is nothing to look up.
type lottery struct {
	bs      []*Backend
	columns []column // nil: all weights are equal
	mean    float64  // weight
	src     chance
}

// column stands for its own backend below limit, for another above.
type column struct {
	limit uint64
	alias int
}

func newLottery(bs []*Backend, src chance) *lottery {
	l := &lottery{bs: bs, src: src}
	sum, equal := 0.0, true
	for _, b := range bs {
		sum += b.Weight()
		equal = equal && b.Weight() == bs[0].Weight()
	}
	l.mean = sum / float64(len(bs))
	if equal {
		return l
	}
	n := len(bs)
	p := make([]float64, n)
	var small, large []int
	for i, b := range bs {
		p[i] = b.Weight() / sum * float64(n)
		if p[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	l.columns = make([]column, n)
	for i := range l.columns {
		l.columns[i] = column{^uint64(0), i}
	}
	for len(small) > 0 && len(large) > 0 {
		s, g := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		l.columns[s] = column{uint64(p[s]*(1<<63)) << 1, g}
		if p[g] -= 1 - p[s]; p[g] < 1 {
			large = large[:len(large)-1]
			small = append(small, g)
		}
	}
	return l
}

// draw maps a uniform number to a backend: the product's upper word is the column, its lower word is uniform within it.
func (l *lottery) draw(u uint64) *Backend { return l.bs[l.column(u)] }

func (l *lottery) column(u uint64) int {
	hi, in := bits.Mul64(u, uint64(len(l.bs)))
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

func (l *lottery) Pick(Key) *Backend { return l.draw(l.src.next()) }

// twoColumns draws two different backends, if there are two.
func (l *lottery) twoColumns() (i, j int) {
	u := l.src.next()
	i = l.column(u)
	if j = l.column(u<<32 | u>>32); j != i { // one number has bits enough for both
		return i, j
	}
	for range 3 {
		if j = l.column(l.src.next()); j != i {
			return i, j
		}
	}
	if j = l.src.below(len(l.bs)); j == i { // one of very large weight: any other
		j = (j + 1) % len(l.bs)
	}
	return i, j
}

// PowerOfTwo draws two backends by weight and takes the one with fewer requests in flight per weight (Mitzenmacher,
// "The Power of Two Choices in Randomized Load Balancing", 2001). The default: O(1), no herding among many balancers.
// One whose last answer was a failure, less than a second ago, is taken only when both are such.
func PowerOfTwo() Policy { return powerOfTwo{} }

type powerOfTwo struct{ src chance }

func (p powerOfTwo) Picker(bs []*Backend) Picker {
	t := twoLoads{newLottery(bs, p.src), make([]float64, len(bs))}
	for i, b := range bs {
		t.per[i] = t.mean / b.Weight()
	}
	return t
}

type twoLoads struct {
	*lottery
	per []float64 // mean weight over the backend's
}

func (p twoLoads) Pick(Key) *Backend {
	a, b := p.twoColumns()
	if p.load(b) < p.load(a) {
		a = b
	}
	return p.bs[a]
}

// load is that with the request to come; but nothing is less than idle, and the draw was by weight already.
func (p twoLoads) load(i int) float64 {
	b := p.bs[i]
	n := b.inFlight.Load()
	load := float64(n+1) * p.per[i]
	if n <= 0 {
		load = 0
	}
	if b.suspect.Load() != 0 {
		load += failing
	}
	return load
}

// PeakEWMA draws two backends and takes the one with the lower cost: the peak-sensitive, exponentially decaying mean of
// its latency times its requests in flight plus one, per weight (as Finagle does). decay is the time constant; 0 means
// 3 s, which forgets a disturbance that is over sooner than Finagle's 10 s and does no worse elsewhere (go test -run
// Simulation -v). A failure counts as a slow answer, so that a host that fails fast gains no traffic.
func PeakEWMA(decay time.Duration) Policy {
	if decay <= 0 {
		decay = defaultDecay * time.Second
	}
	return peakEWMA{decay: decay.Seconds()}
}

type peakEWMA struct {
	decay float64
	src   chance
}

func (p peakEWMA) Picker(bs []*Backend) Picker {
	t := twoCosts{lottery: newLottery(bs, p.src), rate: fadeRate(p.decay), per: make([]float64, len(bs))}
	for i, b := range bs {
		t.per[i] = t.mean / b.Weight()
	}
	return t
}

// latencyDecay is the time constant, in seconds, that latencies are to be averaged with.
func (p peakEWMA) latencyDecay() float64 { return p.decay }

type twoCosts struct {
	*lottery
	rate float64
	per  []float64 // mean weight over the backend's
}

func (p twoCosts) Pick(Key) *Backend {
	a, b := p.twoColumns()
	now := stamp()
	if p.cost(a, now) > p.cost(b, now) {
		a = b
	}
	return p.bs[a]
}

// cost without a history is that of the requests in flight at 1 ms each: a new backend is tried at once, but not
// flooded before its first answer. Of two that are idle only the latency counts: the draw was by weight already.
func (p twoCosts) cost(i int, now uint32) float64 {
	b := p.bs[i]
	latency := b.latency.at(now, p.rate)
	if latency < 1e-3 {
		latency = 1e-3
	}
	return latency * (1 + float64(b.inFlight.Load())*p.per[i])
}
