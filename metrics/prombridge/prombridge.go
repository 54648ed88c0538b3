// Package prombridge connects package metrics with Prometheus's own Go client: collectors written for that client join
// a metrics.Metrics, and the series of a Metrics are gathered by what wants a prometheus.Gatherer (a push gateway,
// tests, OpenTelemetry's bridge). A service that has neither need not import it.
//
//	c, err := prombridge.Collector(collectors.NewExpvarCollector(exports))
//	...
//	err = m.Register(c)
package prombridge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tierkit/tierkit/metrics"
)

// Collector makes one collector of Prometheus's. It fails when their descriptions contradict one another. When one of
// them fails or panics in a scrape, the series of all are missing from it.
func Collector(cs ...prometheus.Collector) (metrics.Collector, error) {
	b := &bridge{registry: prometheus.NewRegistry()}
	for _, c := range cs {
		if err := b.registry.Register(guard{c}); err != nil {
			return nil, fmt.Errorf("prombridge: %w", err)
		}
	}
	return b, nil
}

type bridge struct{ registry *prometheus.Registry }

// guard keeps a panic from the goroutines of the registry, where it would end the process.
type guard struct{ prometheus.Collector }

func (g guard) Collect(to chan<- prometheus.Metric) {
	failed := make(chan error, 1)
	go func() {
		err := errors.New("a collector ended its goroutine")
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("a collector panicked: %v", r)
			}
			failed <- err
		}()
		g.Collector.Collect(to)
		err = nil
	}()
	if err := <-failed; err != nil {
		to <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
}

// Collect implements metrics.Collector.
func (b *bridge) Collect(s *metrics.Scrape) {
	families, err := b.registry.Gather()
	if err != nil {
		panic(err) // reported by the scrape as this collector's failure
	}
	names, values := s.Labels()
	var labels []*dto.LabelPair
	for i := range names {
		labels = append(labels, &dto.LabelPair{Name: &names[i], Value: &values[i]})
	}
	for _, f := range families {
		for _, x := range f.Metric {
			x.Label = append(x.Label, labels...)
			slices.SortFunc(x.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
		}
		samples, err := encode(f, expfmt.Format(s.ContentType()))
		if err != nil {
			panic(err)
		}
		s.Raw(f.GetName(), f.GetHelp(), strings.ToLower(f.GetType().String()), samples)
	}
}

// encode writes the samples of a family without its head.
func encode(f *dto.MetricFamily, format expfmt.Format) ([]byte, error) {
	if format.FormatType() == expfmt.TypeProtoDelim {
		var b []byte
		for _, x := range f.Metric {
			m, err := proto.Marshal(x)
			if err != nil {
				return nil, err
			}
			b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), m)
		}
		return b, nil
	}
	var b bytes.Buffer
	if err := expfmt.NewEncoder(&b, format).Encode(f); err != nil {
		return nil, err
	}
	samples := b.Bytes()
	for bytes.HasPrefix(samples, []byte("# ")) {
		_, samples, _ = bytes.Cut(samples, []byte("\n"))
	}
	return samples, nil
}

// Gatherer gives the series of m to what is made for Prometheus's client, native histograms and exemplars included. It
// is safe for concurrent use.
func Gatherer(m *metrics.Metrics) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		page, contentType := m.Scrape(string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
		decoder := expfmt.NewDecoder(bytes.NewReader(page), expfmt.Format(contentType))
		var families []*dto.MetricFamily
		for {
			f := &dto.MetricFamily{}
			if err := decoder.Decode(f); errors.Is(err, io.EOF) {
				return families, nil
			} else if err != nil {
				return families, fmt.Errorf("prombridge: %w", err)
			}
			for _, x := range f.Metric {
				slices.SortFunc(x.Label, func(a, b *dto.LabelPair) int {
					return strings.Compare(a.GetName(), b.GetName())
				})
			}
			families = append(families, f)
		}
	})
}
