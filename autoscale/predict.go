package autoscale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Prediction lets a Controller size a tier for the demand to come: it remembers each metric's demand and adds what
// History.Forecast expects to its samples. The size is never less than without it. The zero value is ready.
type Prediction struct {
	// Ahead is how long before it is needed an instance has to be started. Zero means 10 min.
	Ahead time.Duration
	// Step is the grain of the history. Zero means 5 min.
	Step time.Duration
	// Keep is how far back the history goes. Zero means 28 days.
	Keep time.Duration
	// Seasons are the periods that demand may have. Empty means a day and a week. Two of one must have passed before it
	// is used.
	Seasons []time.Duration
	// Histories are what was measured before, by metric: from a monitoring system, or Controller.Histories of an
	// earlier run. A metric's history begins empty where there is none.
	Histories map[string]History
}

func (p Prediction) withDefaults(policy Policy) (Prediction, error) {
	if p.Ahead == 0 {
		p.Ahead = 10 * time.Minute
	}
	if p.Step == 0 {
		p.Step = 5 * time.Minute
	}
	if p.Keep == 0 {
		p.Keep = 28 * 24 * time.Hour
	}
	if len(p.Seasons) == 0 {
		p.Seasons = []time.Duration{24 * time.Hour, 7 * 24 * time.Hour}
	}
	if p.Ahead < 0 || p.Step < time.Second || p.Keep < p.Step || p.Keep/p.Step > 1<<17 {
		return p, fmt.Errorf("%w: Predict.Ahead %v, Step %v, Keep %v: want Ahead above 0, Step of 1 s or more, and Keep of 1 to 131072 steps", ErrInvalid, p.Ahead, p.Step, p.Keep)
	}
	for i, s := range p.Seasons {
		if s < 2*p.Step || s <= p.Ahead || 2*s > p.Keep {
			return p, fmt.Errorf("%w: Predict.Seasons[%d] is %v, want more than Ahead, two steps or more, and at most half of Keep", ErrInvalid, i, s)
		}
	}
	for name, h := range p.Histories {
		if h.Step <= 0 || h.Step > p.Ahead && h.Step != p.Step {
			return p, fmt.Errorf("%w: Predict.Histories[%q].Step is %v", ErrInvalid, name, h.Step)
		}
		if !slices.ContainsFunc(policy.Metrics, func(m Metric) bool { return m.Name == name }) {
			return p, fmt.Errorf("%w: Predict.Histories[%q] is of no metric of the policy", ErrInvalid, name)
		}
	}
	return p, nil
}

// predict remembers samples and returns them with their forecasts. c.mu is held.
func (c *Controller) predict(samples []Sample, size int, now time.Time) []Sample {
	p := c.o.Predict
	samples = slices.Clone(samples)
	for _, m := range c.policy.Metrics {
		i := slices.IndexFunc(samples, func(s Sample) bool {
			return s.Metric == m.Name && !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0) && s.Value >= 0
		})
		if i < 0 {
			continue
		}
		s, h := &samples[i], c.past[m.Name]
		demand := s.Value
		if m.Kind == PerInstance && s.Reported > 0 && s.Reported < size {
			demand *= float64(size) / float64(s.Reported) // those that did not report carry as much
		}
		h.Add(now, demand, int(p.Keep/h.Step))
		if f, ok := h.Forecast(now, p.Ahead, p.Seasons...); ok {
			s.Forecast = max(s.Forecast, f)
		}
	}
	return samples
}

// Histories returns what was measured, by metric, to be stored and given to a later run by Prediction.Histories. It is
// empty without Options.Predict.
func (c *Controller) Histories() map[string]History {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]History, len(c.past))
	for name, h := range c.past {
		out[name] = h.clone()
	}
	return out
}
