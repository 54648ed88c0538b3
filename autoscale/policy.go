package autoscale

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrInvalid is returned for options and policies that make no sense; the message names the field.
var ErrInvalid = errors.New("autoscale: invalid")

// Kind says how a metric's value relates to the number of instances.
type Kind uint8

const (
	// Total is a demand that the instances share, such as a queue's depth: wanted instances = value / target (the HPA's
	// External metric with AverageValue).
	Total Kind = iota
	// PerInstance is a load measured on each instance, such as CPU share or requests in flight: wanted instances =
	// instances x average / target (the HPA's Resource and Pods metrics).
	PerInstance
)

// Metric is something a tier is sized by.
type Metric struct {
	// Name joins the metric with its samples.
	Name string
	// Target is what one instance should carry; above 0.
	Target float64
	// Kind is Total by default.
	Kind Kind
}

// Rate allows at most this much change within a period; of Count and Percent the larger applies.
type Rate struct {
	// Count is a number of instances.
	Count int
	// Percent is a share of the instances at the start of the period.
	Percent float64
	// Period is the time it is counted over.
	Period time.Duration
}

// Direction tames changes in one direction.
type Direction struct {
	// Stabilize acts on the mildest proposal of this long. Zero means none for growing and 5 min for shrinking, as in
	// the HPA; negative means none.
	Stabilize time.Duration
	// Rates limit the speed; the one that allows the most applies, or the least with Strict. Empty means the HPA's
	// defaults: for growing 4 instances or 100 % in 15 s, for shrinking no limit.
	Rates []Rate
	// Strict makes the tightest of Rates apply instead of the loosest.
	Strict bool
	// Disabled forbids this direction.
	Disabled bool
}

// Schedule overrides the bounds while it is active.
type Schedule struct {
	// Active reports whether the schedule holds at a time: any rule the caller likes (office hours, a sale).
	Active func(time.Time) bool
	// Min and Max replace the policy's bounds where they are not 0. Of several active schedules the largest Min and the
	// smallest Max that is not below it hold.
	Min, Max int
}

// Policy says how a tier is sized. It is plain data, not changed by this package.
type Policy struct {
	// Min and Max bound the size. Min 0 allows zero instances when every Total metric has been 0 for the whole
	// stabilization window. Max must be at least 1 and at least Min.
	Min, Max int
	// Metrics are those the tier is sized by; the one that wants the most instances wins.
	Metrics []Metric
	// Tolerance leaves the size alone while the load is within this share of the target. Zero means 0.1; negative none.
	Tolerance float64
	// Up and Down tame growing and shrinking.
	Up, Down Direction
	// Schedules change the bounds by the time of day.
	Schedules []Schedule
}

func (p Policy) check() error {
	switch {
	case p.Min < 0:
		return fmt.Errorf("%w: Policy.Min is %d, want 0 or more", ErrInvalid, p.Min)
	case p.Max < 1 || p.Max < p.Min:
		return fmt.Errorf("%w: Policy.Max is %d, want at least 1 and at least Min (%d)", ErrInvalid, p.Max, p.Min)
	case len(p.Metrics) == 0:
		return fmt.Errorf("%w: Policy.Metrics is empty", ErrInvalid)
	case p.Tolerance > 1 || math.IsNaN(p.Tolerance):
		return fmt.Errorf("%w: Policy.Tolerance is %v, want at most 1", ErrInvalid, p.Tolerance)
	}
	seen := map[string]bool{}
	for i, m := range p.Metrics {
		if m.Name == "" || seen[m.Name] {
			return fmt.Errorf("%w: Policy.Metrics[%d].Name %q is empty or used twice", ErrInvalid, i, m.Name)
		}
		if !(m.Target > 0) || math.IsInf(m.Target, 0) {
			return fmt.Errorf("%w: Policy.Metrics[%d].Target is %v, want above 0", ErrInvalid, i, m.Target)
		}
		seen[m.Name] = true
	}
	for name, d := range map[string]Direction{"Up": p.Up, "Down": p.Down} {
		for i, r := range d.Rates {
			if r.Period <= 0 || r.Count < 0 || r.Percent < 0 || (r.Count == 0 && r.Percent == 0) {
				return fmt.Errorf("%w: Policy.%s.Rates[%d] needs a Period and a Count or Percent above 0", ErrInvalid,
					name, i)
			}
		}
	}
	for i, s := range p.Schedules {
		if s.Active == nil || s.Min < 0 || s.Max < 0 || (s.Max > 0 && s.Max < s.Min) {
			return fmt.Errorf("%w: Policy.Schedules[%d] needs Active and Min <= Max", ErrInvalid, i)
		}
	}
	return nil
}

func (p Policy) withDefaults() Policy {
	switch {
	case p.Tolerance == 0:
		p.Tolerance = 0.1
	case p.Tolerance < 0:
		p.Tolerance = 0
	}
	if p.Down.Stabilize == 0 {
		p.Down.Stabilize = 5 * time.Minute
	}
	p.Up.Stabilize, p.Down.Stabilize = max(p.Up.Stabilize, 0), max(p.Down.Stabilize, 0)
	if len(p.Up.Rates) == 0 {
		p.Up.Rates = []Rate{{Count: 4, Percent: 100, Period: 15 * time.Second}}
	}
	return p
}

// bounds applies the active schedules.
func (p Policy) bounds(now time.Time) (lo, hi int) {
	lo, hi = p.Min, p.Max
	for _, s := range p.Schedules {
		if s.Active(now) {
			lo = max(lo, s.Min)
			if s.Max > 0 {
				hi = min(hi, s.Max)
			}
		}
	}
	return lo, max(hi, lo)
}
