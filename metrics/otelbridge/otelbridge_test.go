package otelbridge_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/otelbridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func span(flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5},
		TraceFlags: flags})
}

func TestSeriesReachAReader(t *testing.T) {
	m, err := metrics.New(metrics.Options{NoRuntime: true, Namespace: "shop"})
	require.NoError(t, err)
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	require.NoError(t, err)
	h := otelbridge.Header(web.Wrap(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
		})))
	for _, flags := range []trace.TraceFlags{0, trace.FlagsSampled} {
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(trace.ContextWithSpanContext(t.Context(), span(flags)))
		h.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, flags.IsSampled(), r.Header.Get("Traceparent") != "")
	}
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(otelbridge.Producer(m)))
	defer reader.Shutdown(t.Context())
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer provider.Shutdown(t.Context())
	var got metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &got))
	found := map[string]metricdata.Aggregation{}
	for _, s := range got.ScopeMetrics {
		for _, x := range s.Metrics {
			found[x.Name] = x.Data
		}
	}
	requests, ok := found["shop_http_requests_total"].(metricdata.Sum[float64])
	require.True(t, ok, "%v", found)
	require.Equal(t, 2.0, requests.DataPoints[0].Value)
	took, ok := found["shop_http_request_duration_seconds"].(metricdata.ExponentialHistogram[float64])
	require.True(t, ok, "%T", found["shop_http_request_duration_seconds"])
	require.EqualValues(t, 2, took.DataPoints[0].Count)
	require.EqualValues(t, 3, took.DataPoints[0].Scale)
	text := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	m.Handler().ServeHTTP(text, r)
	require.Contains(t, text.Body.String(), `# {trace_id="01020300000000000000000000000000"}`)
}

func TestRecordsNameTheSpan(t *testing.T) {
	var out strings.Builder
	h := logs.NewHandler(slog.NewTextHandler(&out, nil), logs.HandlerOptions{Attrs: otelbridge.Attrs})
	slog.New(h).InfoContext(trace.ContextWithSpanContext(t.Context(), span(0)), "hello")
	slog.New(h).Info("without")
	require.Contains(t, out.String(), "msg=hello trace_id=01020300000000000000000000000000 span_id=0405000000000000\n")
	require.Contains(t, out.String(), "msg=without\n")
	require.Len(t, h.Store().Search(logs.Query{ID: "01020300000000000000000000000000"}), 1)
}
