package metrics

import (
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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
	registry *prometheus.Registry

	mu    sync.Mutex // guards https
	https []*HTTP
}

// New returns an empty Metrics with the series of the runtime and the host.
func New(o Options) *Metrics {
	m := &Metrics{o: o, registry: prometheus.NewRegistry()}
	if !o.NoRuntime {
		m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if !o.NoHost {
		m.registry.MustRegister(Collect(m.name("host"), readHost))
	}
	return m
}

func (m *Metrics) name(s string) string {
	if m.o.Namespace == "" {
		return s
	}
	return m.o.Namespace + "_" + s
}

// Register adds collectors: those that Collect makes, or any other of Prometheus. It returns Prometheus's error when a
// series exists already with another meaning.
func (m *Metrics) Register(cs ...prometheus.Collector) error {
	for _, c := range cs {
		if err := m.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Gatherer gives the series to other exporters.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Handler answers scrapes in Prometheus's text and OpenMetrics formats. A collector that fails does not hide the others.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true})
}
