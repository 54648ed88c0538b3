package policy

import (
	"time"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/lb"
)

// PeakEWMA draws two backends and takes the one with the lower cost: the peak-sensitive, exponentially decaying mean of
// its latency times its requests in flight plus one, per weight (as Finagle does). decay is the time constant. Zero
// means 3 s, which forgets a disturbance that is over sooner than Finagle's 10 s and does no worse elsewhere (go test
// -run Simulation -v ./lb). A failure counts as a slow answer, so that a host that fails fast gains no traffic.
func PeakEWMA(decay time.Duration) lb.Policy {
	if decay <= 0 {
		decay = 3 * time.Second
	}
	return peakEWMA{decay: decay}
}

type peakEWMA struct {
	decay time.Duration
	src   lottery.Source
}

// LatencyDecay tells the balancer the time constant of Backend.Latency.
func (p peakEWMA) LatencyDecay() time.Duration { return p.decay }

// WithSource returns the policy with another source of random numbers, for simulations.
func (p peakEWMA) WithSource(src lottery.Source) lb.Policy { return peakEWMA{p.decay, src} }

func (p peakEWMA) Picker(bs []*lb.Backend) lb.Picker {
	t := twoCosts{drawn: newDrawn(bs, p.src), per: make([]float64, len(bs))}
	for i, b := range bs {
		t.per[i] = t.Mean() / b.Weight()
	}
	return t
}

type twoCosts struct {
	drawn
	per []float64 // mean weight over the backend's
}

func (p twoCosts) Pick(lb.Key) *lb.Backend {
	a, b := p.Two()
	if p.cost(a) > p.cost(b) {
		a = b
	}
	return p.bs[a]
}

// cost of a backend without a history is that of the requests in flight at 1 ms each: a new backend is tried at once,
// but not flooded before its first answer. Of two that are idle only the latency counts: the draw was by weight
// already.
func (p twoCosts) cost(i int) float64 {
	b := p.bs[i]
	latency := max(b.Latency(), time.Millisecond)
	return latency.Seconds() * (1 + float64(b.InFlight())*p.per[i])
}
