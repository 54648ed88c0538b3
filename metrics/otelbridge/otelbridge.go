// Package otelbridge connects package metrics with OpenTelemetry, for services that are observed through it: the series
// go to any OpenTelemetry exporter, and log records and exemplars carry the ids of its spans.
//
//	reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(otelbridge.Producer(m)))
//	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
//
// Counting stays at the cost of package metrics; OpenTelemetry's share is paid once an export.
package otelbridge

import (
	"context"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/prombridge"
)

// Producer gives a reader all series of m, with the names they have for Prometheus. Histograms of durations become
// exponential ones. It is safe for concurrent use.
func Producer(m *metrics.Metrics) sdkmetric.Producer {
	return prometheus.NewMetricProducer(prometheus.WithGatherer(prombridge.Gatherer(m)))
}

// Attrs returns the trace and span id of the context's span, to be used as logs.HandlerOptions.Attrs. It is safe for
// concurrent use.
func Attrs(ctx context.Context) []slog.Attr {
	s := trace.SpanContextFromContext(ctx)
	if !s.IsValid() {
		return nil
	}
	return []slog.Attr{slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String())}
}

// Header puts the context's span into a request's traceparent header when it is sampled and the caller sent none: put
// the handler between OpenTelemetry's own and metrics.HTTP.Wrap, so that exemplars name traces that began here.
func Header(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if trace.SpanContextFromContext(r.Context()).IsSampled() && r.Header.Get("Traceparent") == "" {
			propagation.TraceContext{}.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
		}
		next.ServeHTTP(w, r)
	})
}
