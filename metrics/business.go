package metrics

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Business counts what the owner of the service asks about: orders, sign-ups, revenue in minor units (cents). Names are
// the program's own. The zero value is not ready; use NewBusiness. All methods are safe for concurrent use.
type Business struct {
	prefix string
	mu     sync.RWMutex // guards the map, not the counters
	counts map[string]*Counter
	series map[string]*series
}

// Counter only grows. Add is one atomic addition.
type Counter struct{ n atomic.Int64 }

// Add adds n, which must not be negative: a counter that falls breaks every rate computed from it, so a negative n is
// ignored.
func (c *Counter) Add(n int64) {
	if n > 0 {
		c.n.Add(n)
	}
}

// Value returns the sum so far.
func (c *Counter) Value() int64 { return c.n.Load() }

// NewBusiness returns an empty set whose series start with prefix, and registers it.
func (m *Metrics) NewBusiness(prefix string) (*Business, error) {
	b := &Business{prefix: m.name(prefix), counts: map[string]*Counter{}, series: map[string]*series{}}
	return b, m.Register(b)
}

// Counter returns the counter of a name, making it at the first call. Keep the result: the call takes a lock.
func (b *Business) Counter(name, help string) *Counter {
	b.mu.RLock()
	c := b.counts[name]
	b.mu.RUnlock()
	if c != nil {
		return c
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c = b.counts[name]; c == nil {
		c = &Counter{}
		s := newSeries(b.prefix+"_"+name, help, counter)
		b.counts[name], b.series[name] = c, &s
	}
	return c
}

// Values returns all counters.
func (b *Business) Values() map[string]int64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make(map[string]int64, len(b.counts))
	for n, c := range b.counts {
		out[n] = c.Value()
	}
	return out
}

// Describe sends nothing: counters may come later.
func (b *Business) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (b *Business) Collect(ch chan<- prometheus.Metric) {
	b.each(func(s *series, n int64) { ch <- s.metric(float64(n)) })
}

func (b *Business) render(p *page, constant string) {
	b.each(func(s *series, n int64) { p.family(s).sample(constant, float64(n)) })
}

func (b *Business) each(visit func(*series, int64)) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for n, c := range b.counts {
		visit(b.series[n], c.Value())
	}
}
