package metrics

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Metrics is where everything that is observed comes together. It knows no collector by name: each registers itself.
// Its methods are safe for concurrent use. It starts no goroutine that outlives a scrape, unless a collector hangs.
type Metrics struct {
	o        Options
	seed     maphash.Seed
	warnings *warn.Log
	failures warn.Tally

	mu      sync.Mutex // guards what follows; never held while a collector runs
	guests  []*guest
	series  map[string]expo.Kind // by name, of the series that were there at registration
	samples map[uint64]bool      // hashes of name and labels, of the same
}

// guest is a registered collector.
type guest struct {
	c     Collector
	pages sync.Pool
	hung  atomic.Bool
}

// New returns a Metrics with the series of the runtime and the process. It fails for invalid options.
func New(o Options) (*Metrics, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Metrics{o: o, seed: maphash.MakeSeed(), warnings: warn.New(o.Logger), series: map[string]expo.Kind{},
		samples: map[uint64]bool{}}
	if !o.NoRuntime {
		err = m.Register(newRuntimeCollector(), processCollector{})
	}
	return m, err
}

// Name returns the name of a series with the namespace in front.
func (m *Metrics) Name(s string) string {
	if m.o.Namespace == "" {
		return s
	}
	return m.o.Namespace + "_" + s
}

// Namespace returns Options.Namespace.
func (m *Metrics) Namespace() string { return m.o.Namespace }

// Collectors returns what is registered, in that order.
func (m *Metrics) Collectors() []Collector {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Collector, len(m.guests))
	for i, g := range m.guests {
		out[i] = g.c
	}
	return out
}

// Register adds collectors: those that Collect makes, the parts of this package, or a program's own. Each is called
// once to see which series it has. Register returns an error, and adds neither this collector nor the following ones,
// when a name or label is invalid, when a sample has the same name and labels as one that is there already, or when
// a series exists already as another kind. A collector that fails now is added; Stats counts the failure.
func (m *Metrics) Register(cs ...Collector) error {
	for _, c := range cs {
		if c == nil {
			return errors.New("metrics: registering: the collector is nil")
		}
		if err := m.register(c); err != nil {
			return fmt.Errorf("metrics: registering: %w", err)
		}
	}
	return nil
}

// checker is a collector that can be invalid before it has any sample.
type checker interface{ check() error }

func (m *Metrics) register(c Collector) error {
	if k, ok := c.(checker); ok {
		if err := k.check(); err != nil {
			return err
		}
	}
	g := newGuest(c)
	f, contentType := expo.Negotiate("")
	pages, _ := m.collect([]*guest{g}, f, contentType)
	series, samples := map[string]expo.Kind{}, map[uint64]bool{}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := pages[0]; p != nil {
		if err := m.inspect(p, series, samples); err != nil {
			return err
		}
	}
	for name, k := range series {
		m.series[name] = k
	}
	for s := range samples {
		m.samples[s] = true
	}
	m.guests = append(m.guests, g)
	return nil
}

// inspect checks a page of a new collector against what is there, and lists what it has.
func (m *Metrics) inspect(p *expo.Page, series map[string]expo.Kind, samples map[uint64]bool) (err error) {
	p.Each(func(s *expo.Series, text []byte) {
		if err != nil {
			return
		}
		if !expo.ValidName(s.Name) {
			err = fmt.Errorf("%q is no name of a series", s.Name)
			return
		}
		if k, ok := m.series[s.Name]; ok && k != s.Kind {
			err = fmt.Errorf("%s is a %v already, and would be a %v", s.Name, k, s.Kind)
			return
		}
		series[s.Name] = s.Kind
		for identity := range expo.Identities(text) {
			h := maphash.Bytes(m.seed, identity)
			if m.samples[h] || samples[h] {
				err = fmt.Errorf("there is a sample %s already", identity)
				return
			}
			samples[h] = true
		}
	})
	return err
}

// Stats count what went wrong with collectors.
type Stats struct {
	// CollectorFailures counts calls of collectors that panicked, took longer than Options.Timeout, or were left out
	// because an earlier call had not returned.
	CollectorFailures uint64 `metric:"collector_failures_total,counter,Calls of collectors that failed"`
	// LastError is the latest failure, "" before the first, and LastErrorAt its time.
	LastError   string
	LastErrorAt time.Time
}

// Stats returns the counts.
func (m *Metrics) Stats() Stats {
	var s Stats
	s.CollectorFailures, s.LastError, s.LastErrorAt = m.failures.Load()
	return s
}

// report counts a failed collector and logs it, at most once a minute.
func (m *Metrics) report(c Collector, err error) {
	err = fmt.Errorf("%s: %w", describe(c), err)
	m.failures.Add(err)
	m.warnings.Warn(describe(c), "metrics: a collector failed; its series are missing from the scrape", "err", err)
}

// describe names a collector for the log.
func describe(c Collector) string {
	if s, ok := c.(fmt.Stringer); ok {
		return s.String()
	}
	return fmt.Sprintf("%T", c)
}
