package lb

import (
	"math/bits"
	"math/rand/v2"
	"time"
)

// Random takes any backend, in proportion to the weights.
func Random() Policy { return randomPolicy{} }

type randomPolicy struct{}

func (randomPolicy) Picker(bs []*Backend) Picker { return newLottery(bs) }

// lottery draws by weight in constant time (Vose, "A Linear Algorithm for Generating Random Numbers With a Given
// Distribution", 1991). With equal weights there is nothing to look up.
type lottery struct {
	bs    []*Backend
	limit []uint64 // column i is itself below limit, else alias
	alias []int32
}

func newLottery(bs []*Backend) *lottery {
	l := &lottery{bs: bs}
	sum, equal := 0.0, true
	for _, b := range bs {
		sum += b.Weight()
		equal = equal && b.Weight() == bs[0].Weight()
	}
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
	l.limit, l.alias = make([]uint64, n), make([]int32, n)
	for i := range l.limit {
		l.limit[i], l.alias[i] = ^uint64(0), int32(i)
	}
	for len(small) > 0 && len(large) > 0 {
		s, g := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		l.limit[s], l.alias[s] = uint64(p[s]*(1<<63))<<1, int32(g)
		if p[g] -= 1 - p[s]; p[g] < 1 {
			large = large[:len(large)-1]
			small = append(small, g)
		}
	}
	return l
}

// draw maps a uniform number to a backend: the product's upper word is the column, its lower word is uniform within it.
func (l *lottery) draw(u uint64) *Backend {
	i, in := bits.Mul64(u, uint64(len(l.bs)))
	if l.limit != nil && in >= l.limit[i] {
		i = uint64(l.alias[i])
	}
	return l.bs[i]
}

func (l *lottery) Pick(Key) *Backend { return l.draw(rand.Uint64()) }

// two draws two different backends, if there are two.
func (l *lottery) two() (a, b *Backend) {
	a = l.draw(rand.Uint64())
	for range 3 {
		if b = l.draw(rand.Uint64()); b != a {
			return a, b
		}
	}
	return a, l.bs[rand.IntN(len(l.bs))] // one of very large weight: any other
}

// PowerOfTwo draws two backends by weight and takes the one with fewer requests in flight per weight (Mitzenmacher,
// "The Power of Two Choices in Randomized Load Balancing", 2001). The default: O(1), no herding among many balancers.
func PowerOfTwo() Policy { return powerOfTwo{} }

type powerOfTwo struct{}

func (powerOfTwo) Picker(bs []*Backend) Picker { return twoLoads{newLottery(bs)} }

type twoLoads struct{ *lottery }

func (p twoLoads) Pick(Key) *Backend {
	a, b := p.two()
	// (x+1)/wx > (y+1)/wy without a division; the request to come counts
	if p.limit == nil {
		if a.inFlight.Load() > b.inFlight.Load() {
			return b
		}
		return a
	}
	if float64(a.inFlight.Load()+1)*b.Weight() > float64(b.inFlight.Load()+1)*a.Weight() {
		return b
	}
	return a
}

// PeakEWMA draws two backends and takes the one with the lower cost: the peak-sensitive, exponentially decaying mean of its
// latency times its requests in flight plus one, per weight (as Finagle does). decay is the time constant; 0 means 10 s. A
// failure counts as a slow answer, so that a host that fails fast gains no traffic.
func PeakEWMA(decay time.Duration) Policy {
	if decay <= 0 {
		decay = defaultDecay * time.Second
	}
	return peakEWMA{decay.Seconds()}
}

type peakEWMA struct{ decay float64 }

func (p peakEWMA) Picker(bs []*Backend) Picker { return twoCosts{newLottery(bs), p.decay} }

type twoCosts struct {
	*lottery
	decay float64
}

func (p twoCosts) Pick(Key) *Backend {
	a, b := p.two()
	now := stamp()
	if a.cost(now, p.decay) > b.cost(now, p.decay) {
		return b
	}
	return a
}

// cost without a history is that of the requests in flight at 1 ms each: a new backend is tried at once, but not flooded
// before its first answer.
func (b *Backend) cost(now uint32, decay float64) float64 {
	return max(b.latency.at(now, decay), 1e-3) * float64(b.inFlight.Load()+1) / b.Weight()
}

// LeastConnections takes a backend with the fewest requests in flight, ties at random. Exact, O(n).
func LeastConnections() Policy { return leastConnections{false} }

// WeightedLeastConnections takes a backend with the fewest requests in flight per weight, ties at random. Exact, O(n).
func WeightedLeastConnections() Policy { return leastConnections{true} }

type leastConnections struct{ weighted bool }

func (p leastConnections) Picker(bs []*Backend) Picker {
	if !p.weighted {
		return leastLoad{bs: bs}
	}
	inverse := make([]float64, len(bs))
	for i, b := range bs {
		inverse[i] = 1 / b.Weight()
	}
	return leastLoad{bs, inverse}
}

type leastLoad struct {
	bs      []*Backend
	inverse []float64 // 1/weight; nil: all alike
}

// Pick scans from a random place, so that ties are broken evenly. Nothing is less than idle: the scan ends there.
func (p leastLoad) Pick(Key) *Backend {
	start := rand.IntN(len(p.bs))
	best, low := -1, 0.0
	for k := range p.bs {
		i := start + k
		if i >= len(p.bs) {
			i -= len(p.bs)
		}
		n := p.bs[i].inFlight.Load()
		if p.inverse == nil {
			if n == 0 {
				return p.bs[i]
			}
			if best < 0 || float64(n) < low {
				best, low = i, float64(n)
			}
			continue
		}
		if c := float64(n+1) * p.inverse[i]; best < 0 || c < low {
			best, low = i, c
		}
	}
	return p.bs[best]
}
