// Package metrics measures tierkit's metrics beside Prometheus's client, VictoriaMetrics' and OpenTelemetry's in one run:
// go test -bench . -count 5 ./metrics
package metrics

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
	"github.com/axiomhq/hyperloglog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/tierkit/tierkit/metrics"
)

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func serve(b *testing.B, h http.Handler) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w, r := &nullWriter{http.Header{}}, httptest.NewRequest("GET", "/", nil)
		r.Pattern = "GET /"
		for pb.Next() {
			h.ServeHTTP(w, r)
		}
	})
}

func BenchmarkHTTP(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) {
		serve(b, metrics.New(metrics.Options{NoHost: true, NoRuntime: true}).HTTP(metrics.HTTPOptions{}).Wrap(hello))
	})
	b.Run("promhttp-four", func(b *testing.B) {
		reg := prometheus.NewRegistry()
		count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c"}, []string{"code", "method"})
		took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "d"}, []string{"code", "method"})
		size := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "s"}, []string{})
		flight := prometheus.NewGauge(prometheus.GaugeOpts{Name: "f"})
		reg.MustRegister(count, took, size, flight)
		serve(b, promhttp.InstrumentHandlerInFlight(flight, promhttp.InstrumentHandlerCounter(count, promhttp.InstrumentHandlerDuration(took, promhttp.InstrumentHandlerResponseSize(size, hello)))))
	})
	b.Run("otelhttp", func(b *testing.B) {
		serve(b, otelhttp.NewHandler(hello, "x", otelhttp.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())))))
	})
	b.Run("limit", func(b *testing.B) { // two clock reads and the handler
		var sink atomic.Int64
		serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			hello(w, r)
			if d := time.Since(start); d < 0 {
				sink.Store(int64(d))
			}
		}))
	})
}

func BenchmarkObserve(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) {
		var h metrics.Histogram
		for b.Loop() {
			h.Observe(1234567)
		}
	})
	b.Run("prometheus", func(b *testing.B) {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h"})
		for b.Loop() {
			h.Observe(0.001234567)
		}
	})
	b.Run("prometheus-native", func(b *testing.B) {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", NativeHistogramBucketFactor: 1.1})
		for b.Loop() {
			h.Observe(0.001234567)
		}
	})
	b.Run("victoriametrics", func(b *testing.B) {
		h := vm.NewSet().NewHistogram("h")
		for b.Loop() {
			h.Update(0.001234567)
		}
	})
}

func BenchmarkCounter(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) {
		var c metrics.Counter
		for b.Loop() {
			c.Add(1)
		}
	})
	b.Run("prometheus", func(b *testing.B) {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "c"})
		for b.Loop() {
			c.Inc()
		}
	})
	b.Run("limit", func(b *testing.B) {
		var c atomic.Int64
		for b.Loop() {
			c.Add(1)
		}
	})
}

func BenchmarkUniquesAdd(b *testing.B) {
	users := make([]string, 1<<12)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d", i)
	}
	b.Run("tierkit", func(b *testing.B) {
		var s metrics.Sketch
		i := 0
		for b.Loop() {
			s.Add(users[i&(1<<12-1)])
			i++
		}
	})
	b.Run("axiomhq", func(b *testing.B) {
		s := hyperloglog.New14()
		i := 0
		for b.Loop() {
			s.Insert([]byte(users[i&(1<<12-1)]))
			i++
		}
	})
}

func BenchmarkUniquesEstimate(b *testing.B) {
	var s metrics.Sketch
	o := hyperloglog.New14()
	for i := range 200_000 {
		u := fmt.Sprintf("user-%d", i)
		s.Add(u)
		o.Insert([]byte(u))
	}
	b.Run("tierkit", func(b *testing.B) {
		for b.Loop() {
			s.Estimate()
		}
	})
	b.Run("axiomhq", func(b *testing.B) {
		for b.Loop() {
			o.Estimate()
		}
	})
}
