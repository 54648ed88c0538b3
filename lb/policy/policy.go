// Package policy holds the algorithms that choose a backend, beside the default [lb.PowerOfTwo] and [lb.Prequal].
//
//	policy                  takes
//	RoundRobin              the backends in turn
//	WeightedRoundRobin      the backends in turn, in proportion to their weights
//	Random                  any backend, in proportion to the weights
//	LeastConnections        the backend with the fewest requests in flight
//	PeakEWMA                of two backends the one with the lower latency times load
//	SourceHash              the same backend for a key, while the set stays as it is
//	Maglev, Rendezvous      the same backend for a key, and little moves when the set changes
//	ConsistentHash          as these, and no backend gets more than its share times a bound
//
// A policy of your own implements [lb.Policy]; all of these use nothing but the exported methods of [lb.Backend].
//
//	b, err := lb.New(endpoints, lb.Options{Policy: policy.ConsistentHash(0)})
package policy

import (
	"math/rand/v2"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/lb"
)

func weights(bs []*lb.Backend) []float64 {
	w := make([]float64, len(bs))
	for i, b := range bs {
		w[i] = b.Weight()
	}
	return w
}

// hashOf returns the hash of a key, and a random one without a key.
func hashOf(k lb.Key) uint64 {
	if k.Keyed {
		return k.Hash
	}
	return rand.Uint64()
}

// drawn picks by the weights alone.
type drawn struct {
	*lottery.Lottery
	bs []*lb.Backend
}

func newDrawn(bs []*lb.Backend, src lottery.Source) drawn {
	return drawn{lottery.New(weights(bs), src), bs}
}

func (d drawn) Pick(lb.Key) *lb.Backend { return d.bs[d.Next()] }

// Random takes any backend, in proportion to the weights.
func Random() lb.Policy { return random{} }

type random struct{ src lottery.Source }

// WithSource returns the policy with another source of random numbers, for simulations.
func (p random) WithSource(src lottery.Source) lb.Policy { return random{src} }

func (p random) Picker(bs []*lb.Backend) lb.Picker { return newDrawn(bs, p.src) }
