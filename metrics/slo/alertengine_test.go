package slo

import (
	"math"
	"slices"
	"sort"
	"time"
)

// table holds what Prometheus would record each minute: sums over the instances, NaN where there is nothing.
type table struct {
	w                *world
	n                int // minutes, 0 included
	bad, total       map[int][]float64
	mean, low, probe []float64
	probeShort       []float64
	absent           []bool
	have             []int // instances with a fresh sample
}

// rate does what PromQL's rate() does (Prometheus 2.42): counter resets, extrapolation, two samples at least; closed at
// both ends.
func rate(xs []sample, corrected []float64, lo, hi int, t, window int) float64 {
	n := hi - lo
	if n < 2 {
		return math.NaN()
	}
	first, last := xs[lo], xs[hi-1]
	inc := corrected[hi-1] - corrected[lo]
	toStart, toEnd := float64(first.t-(t-window)), float64(t-last.t)
	sampled := float64(last.t - first.t)
	avg := sampled / float64(n-1)
	if inc > 0 && first.v >= 0 {
		if z := sampled * (first.v / inc); z < toStart {
			toStart = z
		}
	}
	to := sampled
	for _, d := range []float64{toStart, toEnd} {
		if d < avg*1.1 {
			to += d
		} else {
			to += avg / 2
		}
	}
	return inc * (to / sampled) / float64(window)
}

func newTable(w *world, windows []int) *table {
	tb := &table{w: w, n: w.dur/60 + 1, bad: map[int][]float64{}, total: map[int][]float64{}}
	for _, win := range windows {
		tb.bad[win], tb.total[win] = nans(tb.n), nans(tb.n)
	}
	tb.absent, tb.have = make([]bool, tb.n), make([]int, tb.n)
	add := func(all []sample, to map[int][]float64) {
		xs := slices.Clone(all)
		xs = slices.DeleteFunc(xs, func(s sample) bool { return !s.ok })
		c := make([]float64, len(xs))
		for i := range xs {
			if i > 0 {
				d := xs[i].v - xs[i-1].v
				if d < 0 {
					d = xs[i].v
				}
				c[i] = c[i-1] + d
			}
		}
		for _, win := range windows {
			lo, hi := 0, 0
			out := to[win]
			for m := range tb.n {
				t := m * 60
				for hi < len(xs) && xs[hi].t <= t {
					hi++
				}
				for lo < hi && xs[lo].t < t-win {
					lo++
				}
				if v := rate(xs, c, lo, hi, t, win); !math.IsNaN(v) {
					if math.IsNaN(out[m]) {
						out[m] = 0
					}
					out[m] += v
				}
			}
		}
	}
	for _, in := range w.series {
		add(in.bad, tb.bad)
		add(in.total, tb.total)
		i := 0
		for m := range tb.n { // the latest sample is fresh unless a failed scrape marked it stale
			for i < len(in.total) && in.total[i].t <= m*60 {
				i++
			}
			if i > 0 && in.total[i-1].ok && m*60-in.total[i-1].t < 300 {
				tb.have[m]++
			}
		}
	}
	for m := range tb.n {
		tb.absent[m] = tb.have[m] == 0
	}
	// What the traffic usually is.
	tb.mean, tb.low = nans(tb.n), nans(tb.n)
	sum, cnt := 0.0, 0
	r1, r15 := tb.total[3600], tb.total[900]
	var sorted []float64
	for m := range tb.n {
		if !math.IsNaN(r1[m]) {
			sum += r1[m]
			cnt++
		}
		if old := m - 7*1440 - 1; old >= 0 && !math.IsNaN(r1[old]) {
			sum -= r1[old]
			cnt--
		}
		if cnt > 0 {
			tb.mean[m] = sum / float64(cnt)
		}
		if k := m - 1440; k >= 0 && !math.IsNaN(r15[k]) {
			i := sort.SearchFloat64s(sorted, r15[k])
			sorted = slices.Insert(sorted, i, r15[k])
		}
		if old := m - 1440 - 7*1440 - 1; old >= 0 && !math.IsNaN(r15[old]) {
			i := sort.SearchFloat64s(sorted, r15[old])
			sorted = slices.Delete(sorted, i, i+1)
		}
		if l := len(sorted); l > 0 {
			rank := 0.05 * float64(l-1)
			lo := int(math.Floor(rank))
			hi := min(l-1, lo+1)
			f := rank - math.Floor(rank)
			tb.low[m] = sorted[lo]*(1-f) + sorted[hi]*f
		}
	}
	tb.probe, tb.probeShort = nans(tb.n), nans(tb.n)
	if w.probes {
		over := func(m, win int) float64 {
			s, c := 0.0, 0
			for _, p := range w.probe {
				step := w.s.Scrape
				sum, k := 0.0, 0
				for t := max(step, (m*60-win+step-1)/step*step); t <= m*60; t += step {
					if i := t/step - 1; i < len(p) {
						sum += p[i].v
						k++
					}
				}
				if k > 0 {
					s += sum / float64(k)
					c++
				}
			}
			if c == 0 {
				return math.NaN()
			}
			return s / float64(c)
		}
		for m := range tb.n {
			tb.probe[m], tb.probeShort[m] = over(m, 600), over(m, 120)
		}
	}
	return tb
}

func nans(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = math.NaN()
	}
	return x
}

// firing returns for each minute whether the alert fires.
func (a *alert) firing(tb *table) []bool {
	holds := a.condition()
	out := make([]bool, tb.n)
	since := -1
	for m := range tb.n {
		if !holds(tb, m) {
			since = -1
			continue
		}
		if since < 0 {
			since = m
		}
		out[m] = time.Duration(m-since)*time.Minute >= a.wait
	}
	return out
}

// at is what the rules see at one minute.
type at struct {
	tb *table
	m  int
}

func (a at) rates(w time.Duration) (bad, total float64) {
	s := int(w / time.Second)
	return a.tb.bad[s][a.m], a.tb.total[s][a.m]
}

func (a at) mean() float64 { return a.tb.mean[a.m] }

// condition returns the condition of an alert; those that only Prometheus can see are written a second time here, and
// promtool compares the two.
func (a *alert) condition() func(tb *table, m int) bool {
	if a.when.holds != nil {
		return func(tb *table, m int) bool { return a.when.holds(at{tb, m}) }
	}
	switch a.name {
	case "NoTraffic":
		return func(tb *table, m int) bool { return tb.total[900][m] == 0 && tb.low[m]*900 > 20 }
	case "Unreachable":
		return func(tb *table, m int) bool { return tb.probe[m] < 0.1 && tb.probeShort[m] < 0.1 }
	case "SeriesAbsent":
		return func(tb *table, m int) bool { return tb.absent[m] }
	case "TargetsMissing":
		return func(tb *table, m int) bool {
			most := 0
			for k := max(1, m-60); k <= m; k++ {
				most = max(most, tb.have[k])
			}
			return tb.have[m] > 0 && float64(tb.have[m]) < 0.6*float64(most)
		}
	}
	panic("no condition for " + a.name)
}
