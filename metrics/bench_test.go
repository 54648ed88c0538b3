package metrics_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

func newMetrics(b *testing.B) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// BenchmarkHTTP serves a request; the limit reads the clock twice and calls the handler.
func BenchmarkHTTP(b *testing.B) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	serve := func(b *testing.B, h http.Handler) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w, r := &nullWriter{http.Header{}}, httptest.NewRequest("GET", "/", nil)
			r.Pattern = "GET /"
			for pb.Next() {
				h.ServeHTTP(w, r)
			}
		})
	}
	b.Run("tierkit", func(b *testing.B) {
		web, err := newMetrics(b).HTTP(metrics.HTTPOptions{})
		if err != nil {
			b.Fatal(err)
		}
		serve(b, web.Wrap(hello))
	})
	b.Run("limit", func(b *testing.B) {
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

// BenchmarkObserve counts one duration; the limit is one atomic addition.
func BenchmarkObserve(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) {
		var h metrics.Histogram
		for b.Loop() {
			h.Observe(1234567)
		}
	})
	b.Run("limit", func(b *testing.B) {
		var n atomic.Int64
		for b.Loop() {
			n.Add(1234567)
		}
	})
}

// BenchmarkScrape writes a page of 10,000 counters with three labels; the limit copies rendered names and appends the
// numbers.
func BenchmarkScrape(b *testing.B) {
	type counter struct {
		Server string `label:"server"`
		Route  string `label:"route"`
		Class  string `label:"class"`
		N      uint64 `metric:"requests_total,counter,Requests"`
	}
	counters := make([]counter, 10_000)
	names := make([]string, len(counters))
	for i := range counters {
		counters[i] = counter{"web", fmt.Sprintf("GET /route/%d/{id}", i), "2xx", uint64(i) * 7919}
		names[i] = fmt.Sprintf("shop_requests_total{server=%q,route=%q,class=%q} ", "web", counters[i].Route, "2xx")
	}
	m := newMetrics(b)
	if err := m.Register(metrics.Collect("shop", func() []counter { return counters })); err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"text", "protobuf"} {
		b.Run(format+"/tierkit", func(b *testing.B) {
			h, w, r := m.Handler(), &nullWriter{http.Header{}}, httptest.NewRequest("GET", "/metrics", nil)
			if format == "protobuf" {
				r.Header.Set("Accept", "application/vnd.google.protobuf;"+
					"proto=io.prometheus.client.MetricFamily;encoding=delimited")
			}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
	b.Run("text/limit", func(b *testing.B) {
		var page []byte
		b.ReportAllocs()
		for b.Loop() {
			page = page[:0]
			for i := range counters {
				page = append(strconv.AppendUint(append(page, names[i]...), counters[i].N, 10), '\n')
			}
		}
	})
}

// BenchmarkQuantile reads the 99th percentile of a histogram; the limit adds up as many numbers.
func BenchmarkQuantile(b *testing.B) {
	var h metrics.Histogram
	for i := range 10_000 {
		h.Observe(time.Duration(i) * time.Microsecond)
	}
	b.Run("tierkit", func(b *testing.B) {
		s := h.Snapshot()
		for b.Loop() {
			s.Quantile(.99)
		}
	})
	b.Run("limit", func(b *testing.B) {
		var buckets [282]uint64
		var sum uint64
		for b.Loop() {
			for _, n := range buckets {
				sum += n
			}
		}
	})
}
