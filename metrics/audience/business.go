package audience

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tierkit/tierkit/metrics"
)

// Business counts what the owner of the service asks about: orders, sign-ups, revenue in minor units (cents). Names are
// the program's own. The zero value is not ready; use NewBusiness. All methods are safe for concurrent use.
type Business struct {
	prefix string
	mu     sync.RWMutex // guards the map, not the counters
	counts map[string]*Counter
	help   map[string]string
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

// NewBusiness returns an empty set whose series start with prefix, and registers it. It fails when m has it already.
func NewBusiness(m *metrics.Metrics, prefix string) (*Business, error) {
	b := &Business{prefix: m.Name(prefix), counts: map[string]*Counter{}, help: map[string]string{}}
	for _, c := range m.Collectors() {
		if other, ok := c.(*Business); ok && other.prefix == b.prefix {
			return nil, fmt.Errorf("audience: there is a Business of prefix %q already", prefix)
		}
	}
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
		b.counts[name], b.help[name] = c, help
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

// Collect implements metrics.Collector.
func (b *Business) Collect(s *metrics.Scrape) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(b.counts)) {
		s.Counter(b.prefix+"_"+name, b.help[name], float64(b.counts[name].Value()))
	}
}

func (b *Business) String() string { return b.prefix }
