package autoscale

import (
	"math"
	"slices"
	"time"
)

// History is the demand for a metric in equal steps. It is plain data: it may be stored and taken up again. Its methods
// are not safe for concurrent use.
type History struct {
	// Start is the beginning of the first step.
	Start time.Time
	// Step is the length of each; above 0.
	Step time.Duration
	// Values are the means of the steps that are over; NaN where nothing was measured.
	Values []float64

	sum float64 // of the step that is not over
	n   int
}

func (h History) clone() History {
	h.Values = slices.Clone(h.Values)
	return h
}

// Add takes a measurement at a time and keeps at most so many steps. Times before the current step are ignored, a gap
// becomes steps without a value.
func (h *History) Add(now time.Time, value float64, keep int) {
	if h.Step <= 0 || keep < 1 || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return
	}
	if h.Start.IsZero() {
		h.Start = now.Truncate(h.Step)
	}
	at := now.Sub(h.Start)
	if at < 0 {
		return // the clock jumped back beyond all that is known
	}
	current := len(h.Values)
	if ahead := int(at/h.Step) - current; ahead > keep {
		*h = History{Start: now.Truncate(h.Step), Step: h.Step} // nothing of it would be left
	} else if ahead < 0 {
		return
	} else {
		for ; ahead > 0; ahead-- {
			mean := math.NaN()
			if h.n > 0 {
				mean = h.sum / float64(h.n)
			}
			h.Values, h.sum, h.n = append(h.Values, mean), 0, 0
		}
	}
	if surplus := len(h.Values) - keep; surplus > 0 {
		h.Values = slices.Delete(h.Values, 0, surplus)
		h.Start = h.Start.Add(time.Duration(surplus) * h.Step)
	}
	h.sum, h.n = h.sum+value, h.n+1
}
