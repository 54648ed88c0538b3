package autoscale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Sample is one measurement of a metric.
type Sample struct {
	// Metric is the Name of a Metric of the policy; others are ignored.
	Metric string
	// Value is the demand (Total), or the sum over the instances that reported (PerInstance). NaN and infinities count
	// as missing: a broken probe never changes the size.
	Value float64
	// Reported is how many instances Value sums up. PerInstance only; zero means all current ones.
	Reported int
	// Forecast is the largest demand expected within the time that a new instance takes to be of use, for all instances
	// together; see History.Forecast. It only ever adds: the size is never less than without it, and a sample without a
	// usable Value counts as missing whatever its forecast. Zero, NaN and infinities mean none.
	Forecast float64
}

// State is what the control law remembers between calls. The zero value, with Current set, is a fresh start. It is
// plain data: a controller may store it and go on elsewhere.
type State struct {
	// Current is the number of instances now.
	Current int
	// Proposals are what the metrics asked for within the longer stabilization window.
	Proposals []Proposal
	// Changes are the size changes within the longest rate period.
	Changes []Change
}

// Proposal is what the metrics asked for at a time.
type Proposal struct {
	At   time.Time
	Size int
}

// Change is a change of size by Delta at a time.
type Change struct {
	At    time.Time
	Delta int
}

// Decision is the outcome of one call of Desired.
type Decision struct {
	// At is the time of the call.
	At time.Time
	// From and To are the sizes before and after. They are equal where nothing should change.
	From, To int
	// Proposed is what the winning metric asked for, before windows, rates and bounds.
	Proposed int
	// Metric is the winning metric, "" where none had a usable sample.
	Metric string
	// Forecast is whether what it asked for is for a demand that is still to come.
	Forecast bool
	// Reason says in words what decided, for people and logs.
	Reason string
	// State is to be passed to the next call, provided that To took effect.
	State State
}

// Desired computes the size a tier should have, following the rules of the Kubernetes Horizontal Pod Autoscaler (v2
// algorithm): ceil(current x load/target) with a tolerance; instances that did not report count as idle when growing
// and as fully loaded when shrinking; a missing metric never lets the tier shrink; the largest proposal wins, forecasts
// among them; then stabilization, rate policies, schedules and bounds. It is a pure function: same arguments, same
// result. The policy must be valid (see New); an invalid one yields a Decision that changes nothing and says why.
func Desired(s State, p Policy, samples []Sample, now time.Time) Decision {
	d := Decision{At: now, From: s.Current, To: s.Current, Proposed: s.Current}
	if err := p.check(); err != nil {
		d.Reason, d.State = err.Error(), s
		return d
	}
	p = p.withDefaults()
	lo, hi := p.bounds(now)
	missing := d.propose(p, samples)

	if d.Metric == "" {
		d.Proposed, d.Reason = s.Current, "no usable sample"
	} else if missing != "" && d.Proposed < s.Current {
		d.Proposed, d.Reason = s.Current, fmt.Sprintf("metric %s is missing: not shrinking", missing)
	}
	d.State = remember(s, p, d.Proposed, now)
	size := d.stabilize(p, now)
	size = d.limit(p, size, now)
	if bounded := min(max(size, lo), hi); bounded != size {
		d.Reason = fmt.Sprintf("bounds %d to %d", lo, hi)
		size = bounded
	}
	d.To = size
	if d.To != d.From {
		d.State.Changes = append(d.State.Changes, Change{now, d.To - d.From})
	}
	d.State.Current = d.To
	return d
}

// propose sets Proposed, Metric and Reason from the metric that wants most, and returns the name of one without sample.
func (d *Decision) propose(p Policy, samples []Sample) (missing string) {
	for _, m := range p.Metrics {
		i := slices.IndexFunc(samples, func(s Sample) bool {
			return s.Metric == m.Name && !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0) && s.Value >= 0
		})
		if i < 0 {
			missing = m.Name
			continue
		}
		want, why := m.want(samples[i], d.From, p.Tolerance)
		early := false
		if f := samples[i].Forecast; f > 0 && !math.IsInf(f, 0) {
			expected := Metric{Name: m.Name + " forecast", Target: m.Target}
			if n, how := expected.want(Sample{Value: f}, d.From, p.Tolerance); n > want {
				want, why, early = n, how, true
			}
		}
		if d.Metric == "" || want > d.Proposed {
			d.Proposed, d.Metric, d.Reason, d.Forecast = want, m.Name, why, early
		}
	}
	return missing
}

// want is one metric's proposal. Sizes are capped far above any fleet, so that no value overflows an int.
func (m Metric) want(s Sample, current int, tolerance float64) (int, string) {
	value, n := s.Value, float64(current)
	if m.Kind == PerInstance {
		if current == 0 {
			return 0, fmt.Sprintf("%s is per instance and there is none", m.Name)
		}
		reported := float64(current)
		if s.Reported > 0 {
			reported = math.Min(float64(s.Reported), n)
		}
		load := value / reported / m.Target
		if absent := n - reported; absent > 0 {
			filled := value // idle when growing
			if load < 1 {
				filled += absent * m.Target // fully loaded when shrinking
			}
			refilled := filled / n / m.Target
			if (refilled > 1) != (load > 1) { // the guess would flip the direction
				return current, fmt.Sprintf("%s: %g of %g instances did not report", m.Name, absent, n)
			}
			value = filled
		}
	}
	load := math.Inf(1)
	if current > 0 {
		load = value / n / m.Target
	}
	why := fmt.Sprintf("%s %.4g at target %.4g an instance", m.Name, value, m.Target)
	if math.Abs(load-1) <= tolerance {
		return current, why + ": within tolerance"
	}
	size := math.Min(math.Ceil(value/m.Target-1e-9), 1<<30)
	if value > 0 {
		size = math.Max(size, 1) // any demand at all needs somebody
	}
	return int(size), why
}

// remember adds the proposal to the history and drops what no rule looks at any more, and what claims to come from the
// future: a clock that jumped back must not freeze the size until it has caught up.
func remember(s State, p Policy, proposed int, now time.Time) State {
	n := State{Current: s.Current}
	window := max(p.Up.Stabilize, p.Down.Stabilize)
	for _, q := range s.Proposals {
		if age := now.Sub(q.At); age >= 0 && age <= window {
			n.Proposals = append(n.Proposals, q)
		}
	}
	n.Proposals = append(n.Proposals, Proposal{now, proposed})
	var period time.Duration
	for _, r := range slices.Concat(p.Up.Rates, p.Down.Rates) {
		period = max(period, r.Period)
	}
	for _, c := range s.Changes {
		if age := now.Sub(c.At); age >= 0 && age < period {
			n.Changes = append(n.Changes, c)
		}
	}
	return n
}

// stabilize takes the mildest proposal of each direction's window: growing needs every proposal of Up.Stabilize to be
// above the current size, shrinking every one of Down.Stabilize below.
func (d *Decision) stabilize(p Policy, now time.Time) int {
	up, down := d.Proposed, d.Proposed
	for _, q := range d.State.Proposals {
		age := now.Sub(q.At)
		if age <= p.Up.Stabilize {
			up = min(up, q.Size)
		}
		if age <= p.Down.Stabilize {
			down = max(down, q.Size)
		}
	}
	size := d.From
	size = max(size, up)
	size = min(size, down)
	if size != d.Proposed {
		d.Reason += "; stabilized"
	}
	return size
}

// limit applies Disabled and the rate policies.
func (d *Decision) limit(p Policy, size int, now time.Time) int {
	dir, sign := p.Up, 1
	if size < d.From {
		dir, sign = p.Down, -1
	}
	if size == d.From {
		return size
	}
	if dir.Disabled {
		d.Reason += "; direction disabled"
		return d.From
	}
	allowed := -1 // change still allowed, in instances
	for _, r := range dir.Rates {
		moved := 0 // so far in this period, in this direction
		for _, c := range d.State.Changes {
			if now.Sub(c.At) < r.Period && c.Delta*sign > 0 {
				moved += c.Delta * sign
			}
		}
		start := d.From - sign*moved
		a := max(r.Count, int(math.Ceil(r.Percent/100*float64(start)))) - moved
		a = max(a, 0)
		if d.From == 0 {
			a = max(a, 1) // a share of nothing would never leave zero
		}
		if allowed < 0 || (dir.Strict && a < allowed) || (!dir.Strict && a > allowed) {
			allowed = a
		}
	}
	if change := (size - d.From) * sign; allowed >= 0 && change > allowed {
		d.Reason += "; rate limited"
		return d.From + sign*allowed
	}
	return size
}
