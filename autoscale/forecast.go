package autoscale

import (
	"math"
	"time"
)

// Forecast is the largest demand to be expected within ahead after now, judging by the seasons of the demand until now,
// such as a day and a week. It is Holt and Winters' multiplicative method without a trend (Winters, "Forecasting Sales
// by Exponentially Weighted Moving Averages", 1960). Every season and every pair of smoothing constants is first tried
// on the history itself: what would have forecast it best is used, and only if it would have been better than to expect
// that nothing changes. A forecast never exceeds the largest value of the history. ok is false where there is no
// forecast to be trusted: fewer than two seasons, no season to be seen, or a last step that is long over.
//
// It is a pure function of the history and its arguments. Its cost grows with the history: a few milliseconds for four
// weeks in steps of 5 minutes.
func (h History) Forecast(now time.Time, ahead time.Duration, seasons ...time.Duration) (largest float64, ok bool) {
	if h.Step <= 0 || ahead <= 0 || len(h.Values) == 0 {
		return 0, false
	}
	end := h.Start.Add(time.Duration(len(h.Values)) * h.Step) // of the last whole step
	late := now.Sub(end)
	if late < -h.Step || late > ahead+2*h.Step {
		return 0, false
	}
	steps := int((ahead + max(late, 0) + h.Step - 1) / h.Step)
	best, model := h.stays(steps), holtWinters{}
	for _, season := range seasons {
		m := int((season + h.Step/2) / h.Step)
		if m < 2 || steps >= m || len(h.Values) < 2*m {
			continue
		}
		for _, level := range [...]float64{0.02, 0.1, 0.3} {
			for _, seasonal := range [...]float64{0.1, 0.4} {
				if tried, miss, ok := fit(h.Values, m, steps, level, seasonal); ok && miss < best {
					best, model = miss, tried
				}
			}
		}
	}
	if model.season == nil {
		return 0, false
	}
	most := 0.0
	for _, v := range h.Values {
		if v > most {
			most = v
		}
	}
	for i := 1; i <= steps; i++ {
		largest = max(largest, model.ahead(i))
	}
	return min(largest, most), true
}

// stays is the mean error, over the second half of the history, of expecting the present to last.
func (h History) stays(steps int) float64 {
	miss, n := 0.0, 0
	for i := len(h.Values) / 2; i+steps < len(h.Values); i++ {
		if e := math.Abs(h.Values[i+steps] - h.Values[i]); !math.IsNaN(e) {
			miss, n = miss+e, n+1
		}
	}
	if n == 0 {
		return math.Inf(1)
	}
	return miss / float64(n)
}

// holtWinters is the state after a number of steps: value = level x season[step mod len].
type holtWinters struct {
	level  float64
	season []float64
	step   int
}

func (w *holtWinters) ahead(steps int) float64 {
	return w.level * w.season[(w.step+steps-1)%len(w.season)]
}

// add takes the value of the next step.
func (w *holtWinters) add(v, level, seasonal float64) {
	s := &w.season[w.step%len(w.season)]
	w.step++
	if math.IsNaN(v) {
		return
	}
	if *s > 0.05 { // at an hour when next to nothing happens the level can't be seen
		w.level += level * (v / *s - w.level)
	}
	if w.level > 0 {
		*s += seasonal * (v/w.level - *s)
	}
}

// fit runs over values and returns the state at their end and the mean error of its forecasts in the second half of
// them.
func fit(values []float64, m, steps int, level, seasonal float64) (w holtWinters, miss float64, ok bool) {
	sum, n := 0.0, 0
	for _, v := range values[:m] {
		if !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	if 2*n < m || sum <= 0 {
		return w, 0, false
	}
	w = holtWinters{level: sum / float64(n), season: make([]float64, m), step: m}
	for i, v := range values[:m] {
		w.season[i] = 1
		if !math.IsNaN(v) {
			w.season[i] = v / w.level
		}
	}
	from, judged := len(values)/2, 0
	for i := m; i < len(values); i++ {
		// forecast made before step i is known
		if target := i + steps - 1; target >= from+steps && target < len(values) {
			if e := math.Abs(w.ahead(steps) - values[target]); !math.IsNaN(e) {
				miss, judged = miss+e, judged+1
			}
		}
		w.add(values[i], level, seasonal)
	}
	if judged == 0 || math.IsNaN(w.level) || math.IsInf(w.level, 0) {
		return w, 0, false
	}
	return w, miss / float64(judged), true
}
