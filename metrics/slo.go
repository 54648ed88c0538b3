package metrics

import (
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// SLO is a service level objective: the share of events that must be good. Its burn rate says how many times faster
// than allowed the error budget is being spent; alerts fire when two windows, a long and a short one, burn too fast at
// the same time (The Site Reliability Workbook, chapter 5, "Multiwindow, multi-burn-rate alerts").
type SLO struct {
	// Name labels the series: lower-case letters, digits, "-" and "_".
	Name string
	// Objective is the share of good events to reach, such as 0.999; more than 0, less than 1.
	Objective float64
	// Window is what the error budget is for. Zero means 30 days; at least an hour.
	Window time.Duration
	// Read returns how many events were good and how many there were, both growing: HTTP.Availability, HTTP.Latency, or
	// the application's own.
	Read func() (good, total uint64)
}

// Availability counts answers other than 5xx as good.
func (h *HTTP) Availability() func() (good, total uint64) {
	return func() (uint64, uint64) {
		s := h.Stats()
		return s.Requests - min(s.Errors, s.Requests), s.Requests
	}
}

// Latency counts answers within the threshold as good. It is rounded up to the next bound of the histogram, which is at
// most 9 % more; what a client broke off or the server failed counts by its time as well.
func (h *HTTP) Latency(threshold time.Duration) func() (good, total uint64) {
	last := bucket(threshold)
	return func() (good, total uint64) {
		s := h.Stats()
		for i := 0; i <= last; i++ {
			good += s.Took.counts[i]
		}
		return good, s.Took.Count
	}
}

// Objective measures an SLO from the moment it was added. It looks at its counters whenever it is read, by a scrape or
// the dashboard, and starts no goroutine. All methods are safe for concurrent use.
type Objective struct {
	slo SLO

	mu     sync.Mutex // guards what follows
	fine   samples    // for the short windows
	coarse samples    // for the long ones and the budget
}

// samples is a ring of what the counters were at some times, at least a step apart.
type samples struct {
	step time.Duration
	ring []sloSample
	next int // all ever added; the place of the next is next % cap
}

type sloSample struct {
	at          time.Time
	good, total uint64
}

const fineStep, fineWindow = 15 * time.Second, 6 * time.Hour

func (s *samples) add(x sloSample, size int) {
	if s.next > 0 && x.at.Sub(s.last().at) < s.step {
		return
	}
	if len(s.ring) < size {
		s.ring = append(s.ring, x)
	} else {
		s.ring[s.next%size] = x
	}
	s.next++
}

func (s *samples) last() sloSample { return s.ring[(s.next-1)%len(s.ring)] }

// before returns the youngest sample that is at least as old as at, or the oldest there is.
func (s *samples) before(at time.Time) sloSample {
	lo, hi := max(s.next-len(s.ring), 0), s.next-1
	for lo < hi { // the last one that is not after at
		mid := (lo + hi + 1) / 2
		if s.ring[mid%len(s.ring)].at.After(at) {
			hi = mid - 1
		} else {
			lo = mid
		}
	}
	return s.ring[lo%len(s.ring)]
}

var sloName = regexp.MustCompile(`^[a-z0-9_-]+$`)

// SLO adds an objective, its series and, to Rules, its alerts.
func (m *Metrics) SLO(s SLO) (*Objective, error) {
	switch {
	case !sloName.MatchString(s.Name):
		return nil, fmt.Errorf("metrics: SLO.Name %q: want lower-case letters, digits, - and _", s.Name)
	case !(s.Objective > 0 && s.Objective < 1):
		return nil, fmt.Errorf("metrics: SLO.Objective of %s is %v: want more than 0 and less than 1", s.Name,
			s.Objective)
	case s.Window != 0 && s.Window < time.Hour:
		return nil, fmt.Errorf("metrics: SLO.Window of %s is %v: want at least 1h", s.Name, s.Window)
	case s.Read == nil:
		return nil, fmt.Errorf("metrics: SLO.Read of %s is nil", s.Name)
	}
	if s.Window == 0 {
		s.Window = 30 * 24 * time.Hour
	}
	o := &Objective{slo: s, fine: samples{step: fineStep}, coarse: samples{step: s.Window / 4096}}
	o.look(time.Now())
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.slos {
		if other.slo.Name == s.Name {
			return nil, fmt.Errorf("metrics: there is an SLO %s already", s.Name)
		}
	}
	if m.slos == nil {
		c := newSLOCollector(m)
		m.own = append(m.own, c)
		m.registry.MustRegister(c)
	}
	m.slos = append(m.slos, o)
	return o, nil
}

// objectives returns all SLOs.
func (m *Metrics) objectives() []*Objective {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slos[:len(m.slos):len(m.slos)]
}

// look takes a sample.
func (o *Objective) look(now time.Time) sloSample {
	x := sloSample{at: now}
	x.good, x.total = o.slo.Read()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fine.add(x, int(fineWindow/fineStep)+1)
	o.coarse.add(x, 4096+1)
	return x
}

// burn is how fast the budget was spent over a window, or since the start: 1 spends it exactly in SLO.Window.
func (o *Objective) burn(now sloSample, window time.Duration) float64 {
	return o.badRatio(now, window) / (1 - o.slo.Objective)
}

func (o *Objective) badRatio(now sloSample, window time.Duration) float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.coarse
	if window <= fineWindow {
		s = &o.fine
	}
	old := s.before(now.at.Add(-window))
	if now.total <= old.total {
		return 0
	}
	total := float64(now.total - old.total)
	return max(0, total-float64(now.good-min(old.good, now.good))) / total
}

// burnAlert is one pair of windows. The budget share is what the long window may spend.
type burnAlert struct {
	long, short time.Duration
	share       float64
	severity    string
}

var burnAlerts = []burnAlert{
	{time.Hour, 5 * time.Minute, 0.02, "page"},
	{6 * time.Hour, 30 * time.Minute, 0.05, "page"},
	{24 * time.Hour, 2 * time.Hour, 0.10, "ticket"},
	{72 * time.Hour, 6 * time.Hour, 0.10, "ticket"},
}

// alerts are those whose long window is shorter than the SLO's own.
func (s *SLO) alerts() (out []burnAlert) {
	for _, a := range burnAlerts {
		if a.long < s.Window {
			out = append(out, a)
		}
	}
	return out
}

// threshold is the burn rate at which a window spends its share of the budget.
func (a burnAlert) threshold(window time.Duration) float64 {
	return a.share * float64(window) / float64(a.long)
}

// SLOStatus is an objective at one moment.
type SLOStatus struct {
	Name      string  `json:"name"`
	Objective float64 `json:"objective"`
	// Good is the share of good events over SLO.Window, or since the start; 1 when there were none.
	Good float64 `json:"good"`
	// Events of the same time.
	Events uint64 `json:"events"`
	// BudgetLeft is the share of the error budget that is left: 1 untouched, 0 spent, negative overspent.
	BudgetLeft float64 `json:"budget_left"`
	// Burn1h and Burn6h are burn rates.
	Burn1h float64 `json:"burn_1h"`
	Burn6h float64 `json:"burn_6h"`
	// Alert is "page" or "ticket" while one of the generated alerts would fire, "" else.
	Alert string `json:"alert,omitempty"`
}

// Status measures the objective now.
func (o *Objective) Status() SLOStatus {
	s, _ := o.status(time.Now())
	return s
}

// status also returns the counters that it was computed from.
func (o *Objective) status(t time.Time) (SLOStatus, sloSample) {
	now := o.look(t)
	bad := o.badRatio(now, o.slo.Window)
	o.mu.Lock()
	first := o.coarse.before(t.Add(-o.slo.Window))
	o.mu.Unlock()
	s := SLOStatus{Name: o.slo.Name, Objective: o.slo.Objective, Good: 1 - bad,
		Events:     now.total - min(first.total, now.total),
		BudgetLeft: 1 - bad/(1-o.slo.Objective), Burn1h: o.burn(now, time.Hour), Burn6h: o.burn(now, 6*time.Hour)}
	for _, a := range o.slo.alerts() {
		limit := a.threshold(o.slo.Window)
		if o.burn(now, a.long) > limit && o.burn(now, a.short) > limit {
			s.Alert = a.severity
			break
		}
	}
	return s, now
}

type sloCollector struct {
	m                                     *Metrics
	good, events, objective, budget, burn series
}

func newSLOCollector(m *Metrics) *sloCollector {
	return &sloCollector{
		m:         m,
		good:      newSeries(m.name("slo_good_events_total"), "Events that met their objective", counter, "slo"),
		events:    newSeries(m.name("slo_events_total"), "Events that have an objective", counter, "slo"),
		objective: newSeries(m.name("slo_objective_ratio"), "Share of good events to reach", gauge, "slo"),
		budget: newSeries(m.name("slo_error_budget_remaining_ratio"),
			"Share of the error budget that is left, as this process has seen it", gauge, "slo"),
		burn: newSeries(m.name("slo_burn_rate"),
			"How many times too fast the budget is spent, as this process has seen it", gauge, "slo", "window"),
	}
}

func (c *sloCollector) each(visit func(s *series, v float64, labels ...string)) {
	now := time.Now()
	for _, o := range c.m.objectives() {
		name := o.slo.Name
		st, counted := o.status(now)
		visit(&c.good, float64(counted.good), name)
		visit(&c.events, float64(counted.total), name)
		visit(&c.objective, st.Objective, name)
		visit(&c.budget, st.BudgetLeft, name)
		visit(&c.burn, st.Burn1h, name, "1h")
		visit(&c.burn, st.Burn6h, name, "6h")
	}
}

func (c *sloCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range []series{c.good, c.events, c.objective, c.budget, c.burn} {
		ch <- s.desc
	}
}

func (c *sloCollector) Collect(ch chan<- prometheus.Metric) {
	c.each(func(s *series, v float64, labels ...string) { ch <- s.metric(v, labels...) })
}

func (c *sloCollector) render(p *page, constant string) {
	c.each(func(s *series, v float64, labels ...string) {
		p.family(s).sample(join(constant, renderLabels(s.labels, labels)), v)
	})
}
