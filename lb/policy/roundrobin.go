package policy

import (
	"math"
	"sync/atomic"

	"github.com/tierkit/tierkit/lb"
)

// RoundRobin takes the backends in turn and ignores weights.
func RoundRobin() lb.Policy { return roundRobin{} }

type roundRobin struct{}

func (roundRobin) Picker(bs []*lb.Backend) lb.Picker { return &turns{order: bs} }

// WeightedRoundRobin takes the backends in turn in proportion to their weights, interleaved as smoothly as nginx does
// ("smooth weighted round robin", nginx 1.3.1), from a table made beforehand: a pick is one atomic addition.
// Weights are met to within one part in the table's length, 1000 or more.
func WeightedRoundRobin() lb.Policy { return weightedRoundRobin{} }

type weightedRoundRobin struct{}

func (weightedRoundRobin) Picker(bs []*lb.Backend) lb.Picker { return &turns{order: smooth(bs)} }

type turns struct {
	order []*lb.Backend
	_     [64]byte
	next  atomic.Uint64
}

func (t *turns) Pick(lb.Key) *lb.Backend {
	return t.order[(t.next.Add(1)-1)%uint64(len(t.order))]
}

// smooth lays out one period of nginx's algorithm: each turn every backend gains its weight, the richest is taken and
// pays the sum of all.
func smooth(bs []*lb.Backend) []*lb.Backend {
	share := counts(bs)
	total := 0
	for _, n := range share {
		total += n
	}
	credit := make([]int, len(bs))
	order := make([]*lb.Backend, 0, total)
	for range total {
		best := -1
		for i, n := range share {
			credit[i] += n
			if n > 0 && (best < 0 || credit[i] > credit[best]) {
				best = i
			}
		}
		credit[best] -= total
		order = append(order, bs[best])
	}
	return order
}

// counts turns weights into small whole numbers of the same proportions: exactly where they are whole already, else by
// rounding to a table of at least 1000 turns. No positive weight gets 0.
func counts(bs []*lb.Backend) []int {
	whole, sum, lowest := true, 0.0, math.Inf(1)
	for _, b := range bs {
		w := b.Weight()
		whole = whole && w == math.Trunc(w) && w >= 1
		sum += w
		lowest = min(lowest, w)
	}
	out := make([]int, len(bs))
	if whole && sum <= 1<<16 {
		g := 0
		for i, b := range bs {
			out[i] = int(b.Weight())
			g = gcd(g, out[i])
		}
		for i := range out {
			out[i] /= g
		}
		return out
	}
	turns := min(max(1000, float64(10*len(bs))), 1<<14)
	for i, b := range bs {
		out[i] = max(1, int(math.Round(b.Weight()/sum*turns)))
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
