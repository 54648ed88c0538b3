package lb

import "github.com/tierkit/tierkit/internal/lottery"

// PowerOfTwo returns the default policy: it draws two backends by weight and takes the one with fewer requests in
// flight per weight (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). A pick costs the
// same for any number of backends, and many balancers do not herd. A backend that is [Backend.Failing] is taken only
// when both are.
func PowerOfTwo() Policy { return powerOfTwo{} }

type powerOfTwo struct{ src lottery.Source }

// WithSource returns the policy with another source of random numbers, for simulations.
func (p powerOfTwo) WithSource(src lottery.Source) Policy { return powerOfTwo{src} }

func (p powerOfTwo) Picker(bs []*Backend) Picker {
	weights := make([]float64, len(bs))
	for i, b := range bs {
		weights[i] = b.Weight()
	}
	t := twoLoads{lottery.New(weights, p.src), bs, make([]float64, len(bs))}
	for i, w := range weights {
		t.per[i] = t.Mean() / w
	}
	return t
}

type twoLoads struct {
	*lottery.Lottery
	bs  []*Backend
	per []float64 // mean weight over the backend's
}

func (p twoLoads) Pick(Key) *Backend {
	a, b := p.Two()
	if p.load(b) < p.load(a) {
		a = b
	}
	return p.bs[a]
}

// failing is more load than there is: a failing backend comes after all others.
const failing = 1 << 60

// load is the load with the request to come. An idle backend has none, since the draw was by weight already.
func (p twoLoads) load(i int) float64 {
	b := p.bs[i]
	n := b.inFlight.Load()
	load := float64(n+1) * p.per[i]
	if n <= 0 {
		load = 0
	}
	if b.Failing() {
		load += failing
	}
	return load
}
