package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Options configure Metrics. The zero value is ready.
type Options struct {
	// Namespace prefixes the series of this package ("shop_http_requests_total"). Empty means none.
	Namespace string
	// NoRuntime leaves out the series of the Go runtime and the process.
	NoRuntime bool
	// NoHost leaves out the series of the machine.
	NoHost bool
}

// Metrics is where everything that is observed comes together. Its methods are safe for concurrent use. It starts no
// goroutine.
type Metrics struct {
	o        Options
	registry *prometheus.Registry // all collectors
	foreign  *prometheus.Registry // those that can't render themselves

	mu   sync.Mutex // guards what follows, and http's lists
	own  []renderer
	http *httpCollector
	slos []*Objective
	// security is the latest stream, for its rules.
	security *Security
}

// New returns an empty Metrics with the series of the runtime and the host.
func New(o Options) *Metrics {
	m := &Metrics{o: o, registry: prometheus.NewRegistry(), foreign: prometheus.NewRegistry()}
	if !o.NoRuntime {
		m.must(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if !o.NoHost {
		m.must(Collect(m.name("host"), readHost))
	}
	return m
}

// must registers what this package itself names, once.
func (m *Metrics) must(cs ...prometheus.Collector) {
	if err := m.Register(cs...); err != nil {
		panic(err)
	}
}

func (m *Metrics) name(s string) string {
	if m.o.Namespace == "" {
		return s
	}
	return m.o.Namespace + "_" + s
}

// Gatherer gives the series to other exporters.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }
