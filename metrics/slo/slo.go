package slo

import (
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/metrics"
)

// Options describe an objective. Name, Objective and Read are required.
type Options struct {
	// Name labels the series: lower-case letters, digits, "-" and "_".
	Name string
	// Objective is the share of good events to reach, such as 0.999: more than 0, less than 1.
	Objective float64
	// Window is what the error budget is for. Zero means 30 days; at least an hour.
	Window time.Duration
	// Read returns how many events were good and how many there were, both growing: metrics.HTTP.Availability,
	// metrics.HTTP.Latency, or the application's own. It must be cheap and safe for concurrent use.
	Read func() (good, total uint64)
}

// SLO measures an objective from the moment it was made. It reads its counters whenever it is read itself, by a scrape
// or the dashboard, and starts no goroutine. All methods are safe for concurrent use.
type SLO struct {
	o Options
	m *metrics.Metrics

	mu     sync.Mutex // guards what follows
	fine   samples    // for the short windows
	coarse samples    // for the long ones and the budget
	latest sloSample
}

// samples is a ring of what the counters were at some times, at least a step apart.
type samples struct {
	step time.Duration
	ring []sloSample
	next int // all ever added; the place of the next is next % cap
}

type sloSample struct {
	at         time.Time
	bad, total uint64
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

func (o Options) withDefaults() (Options, error) {
	switch {
	case !sloName.MatchString(o.Name):
		return o, fmt.Errorf("slo: Options.Name %q: want lower-case letters, digits, - and _", o.Name)
	case !(o.Objective > 0 && o.Objective < 1):
		return o, fmt.Errorf("slo: Options.Objective of %s is %v: want more than 0 and less than 1", o.Name,
			o.Objective)
	case o.Window != 0 && o.Window < time.Hour:
		return o, fmt.Errorf("slo: Options.Window of %s is %v: want at least 1h", o.Name, o.Window)
	case o.Read == nil:
		return o, fmt.Errorf("slo: Options.Read of %s is nil", o.Name)
	}
	if o.Window == 0 {
		o.Window = 30 * 24 * time.Hour
	}
	return o, nil
}

// New adds an objective with its series to m and, for Rules, its alerts. It fails for invalid options, and when m has
// an objective of the same name already.
func New(m *metrics.Metrics, o Options) (*SLO, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &SLO{o: o, m: m, fine: samples{step: fineStep}, coarse: samples{step: o.Window / 4096}}
	if err := usercode.Call(func() { s.sample(time.Now()) }); err != nil {
		return nil, fmt.Errorf("slo: Options.Read of %s: %w", o.Name, err)
	}
	return s, m.Register(s)
}

// All returns the objectives of m.
func All(m *metrics.Metrics) (all []*SLO) {
	for _, c := range m.Collectors() {
		if s, ok := c.(*SLO); ok {
			all = append(all, s)
		}
	}
	return all
}

// sample reads the counters.
func (s *SLO) sample(now time.Time) sloSample {
	good, total := s.o.Read()
	x := sloSample{at: now, bad: total - min(good, total), total: total}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.total >= s.latest.total { // good may be read a moment before total: the counter must not fall for that
		x.bad = max(x.bad, s.latest.bad)
	}
	s.latest = x
	s.fine.add(x, int(fineWindow/fineStep)+1)
	s.coarse.add(x, 4096+1)
	return x
}

// burn is how fast the budget was spent over a window, or since the start: 1 spends it exactly in Options.Window.
func (s *SLO) burn(now sloSample, window time.Duration) float64 {
	return s.badRatio(now, window) / (1 - s.o.Objective)
}

func (s *SLO) badRatio(now sloSample, window time.Duration) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ring := &s.coarse
	if window <= fineWindow {
		ring = &s.fine
	}
	old := ring.before(now.at.Add(-window))
	if now.total <= old.total {
		return 0
	}
	return float64(now.bad-min(old.bad, now.bad)) / float64(now.total-old.total)
}

// seen is what this process has seen of an objective, up to a sample.
type seen struct {
	s   *SLO
	now sloSample
}

// rates implements figures.
func (f seen) rates(window time.Duration) (bad, total float64) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	ring := &f.s.coarse
	if window <= fineWindow {
		ring = &f.s.fine
	}
	old := ring.before(f.now.at.Add(-window))
	return float64(f.now.bad-min(old.bad, f.now.bad)) / window.Seconds(),
		float64(f.now.total-min(old.total, f.now.total)) / window.Seconds()
}

// mean implements figures.
func (f seen) mean() float64 {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	old := f.s.coarse.before(f.now.at.Add(-usualWindow))
	return float64(f.now.total-min(old.total, f.now.total)) / max(f.now.at.Sub(old.at), time.Hour).Seconds()
}

// Status is an objective at one moment.
type Status struct {
	Name      string  `json:"name"`
	Objective float64 `json:"objective"`
	// Good is the share of good events over Options.Window, or since the start; 1 when there were none.
	Good float64 `json:"good"`
	// Events of the same time.
	Events uint64 `json:"events"`
	// BudgetLeft is the share of the error budget that is left: 1 untouched, 0 spent, negative overspent.
	BudgetLeft float64 `json:"budget_left"`
	// Burn1h and Burn6h are burn rates.
	Burn1h float64 `json:"burn_1h"`
	Burn6h float64 `json:"burn_6h"`
	// Alert is "page" or "ticket" while the condition of ErrorBudgetBurn or Outage holds for what this process has
	// seen, "" else.
	Alert string `json:"alert,omitempty"`
}

// Status measures the objective now.
func (s *SLO) Status() Status {
	st, _ := s.status(time.Now())
	return st
}

// status also returns the counters that it was computed from.
func (s *SLO) status(t time.Time) (Status, sloSample) {
	now := s.sample(t)
	bad := s.badRatio(now, s.o.Window)
	s.mu.Lock()
	first := s.coarse.before(t.Add(-s.o.Window))
	s.mu.Unlock()
	st := Status{Name: s.o.Name, Objective: s.o.Objective, Good: 1 - bad,
		Events:     now.total - min(first.total, now.total),
		BudgetLeft: 1 - bad/(1-s.o.Objective), Burn1h: s.burn(now, time.Hour), Burn6h: s.burn(now, 6*time.Hour)}
	for _, a := range s.alerts() {
		if a.when.holds != nil && st.Alert != "page" && a.when.holds(seen{s, now}) {
			st.Alert = a.severity
		}
	}
	return st, now
}

// Collect implements metrics.Collector.
func (s *SLO) Collect(to *metrics.Scrape) {
	st, counted := s.status(time.Now())
	name := s.m.Name
	to.Counter(name("slo_bad_events_total"), "Events that missed their objective", float64(counted.bad), "slo",
		s.o.Name)
	to.Counter(name("slo_events_total"), "Events that have an objective", float64(counted.total), "slo", s.o.Name)
	to.Gauge(name("slo_objective_ratio"), "Share of good events to reach", st.Objective, "slo", s.o.Name)
	to.Gauge(name("slo_error_budget_remaining_ratio"),
		"Share of the error budget that is left, as this process has seen it", st.BudgetLeft, "slo", s.o.Name)
	const help = "How many times too fast the budget is spent, as this process has seen it"
	to.Gauge(name("slo_burn_rate"), help, st.Burn1h, "slo", s.o.Name, "window", "1h")
	to.Gauge(name("slo_burn_rate"), help, st.Burn6h, "slo", s.o.Name, "window", "6h")
}

func (s *SLO) String() string { return "the SLO " + s.o.Name }
