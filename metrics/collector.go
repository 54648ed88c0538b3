package metrics

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Collector adds its series to a scrape.
type Collector interface {
	// Collect adds the present value of each series to s. It is called in a goroutine of its own at each scrape,
	// possibly several times at once, and must not use s after it returned. What it panics with or does not finish in
	// Options.Timeout costs its own series only.
	Collect(s *Scrape)
}

// Scrape is what a Collector adds its samples to. It belongs to one call of Collect and is not safe for concurrent use.
// Labels are pairs of names and values; names of series and labels consist of letters, digits and "_".
type Scrape struct {
	page        *expo.Page
	contentType string
}

// Gauge adds the value of a gauge. Help describes the series: a capital first, no full stop at the end.
func (s *Scrape) Gauge(name, help string, v float64, labels ...string) {
	s.add(expo.Series{Name: name, Help: help, Kind: expo.Gauge}, v, labels)
}

// Counter adds the value of a counter, which only grows and whose name should end in "_total".
func (s *Scrape) Counter(name, help string, v float64, labels ...string) {
	s.add(expo.Series{Name: name, Help: help, Kind: expo.Counter}, v, labels)
}

func (s *Scrape) add(series expo.Series, v float64, labels []string) {
	var rendered []byte
	for i := 0; i+1 < len(labels); i += 2 {
		rendered = s.page.AppendLabel(rendered, labels[i], labels[i+1])
	}
	s.page.Family(&series).SampleBytes(rendered, v)
}

// Raw adds samples that the caller has written in the format of ContentType: lines of text without "# HELP" and
// "# TYPE", or fields "metric" of a MetricFamily in protobuf. They must include Labels. The kind is "counter", "gauge",
// "histogram", "summary" or "untyped". Raw exists for bridges to other libraries.
func (s *Scrape) Raw(name, help, kind string, samples []byte) {
	k, ok := expo.KindOf(kind)
	if !ok {
		panic(fmt.Sprintf("metrics: Raw of kind %q", kind))
	}
	s.page.Family(&expo.Series{Name: name, Help: help, Kind: k}).Raw(samples)
}

// ContentType returns the format of the scrape as an HTTP media type.
func (s *Scrape) ContentType() string { return s.contentType }

// Labels returns the labels that WithLabels adds, for Raw; the other methods add them by themselves.
func (s *Scrape) Labels() (names, values []string) { return s.page.Constant() }

// labeled adds constant labels to a collector.
type labeled struct {
	Collector
	names, values []string
}

// WithLabels adds constant labels to everything a collector yields, so that several instances of one kind (two edges,
// four pools) can be told apart under the same names.
func WithLabels(labels map[string]string, c Collector) Collector {
	l := &labeled{Collector: c, names: slices.Sorted(maps.Keys(labels))}
	for _, n := range l.names {
		l.values = append(l.values, labels[n])
	}
	return l
}

func (l *labeled) Collect(s *Scrape) {
	s.page.With(l.names, l.values, func() { l.Collector.Collect(s) })
}

func (l *labeled) check() error {
	for _, n := range l.names {
		if !expo.ValidLabel(n) {
			return fmt.Errorf("%q is no name of a label", n)
		}
	}
	if k, ok := l.Collector.(checker); ok {
		return k.check()
	}
	return nil
}

func (l *labeled) String() string { return fmt.Sprint(describe(l.Collector), l.values) }
