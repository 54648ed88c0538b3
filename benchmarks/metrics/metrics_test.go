// Package metrics measures tierkit's metrics beside Prometheus's client, VictoriaMetrics' and OpenTelemetry's in one
// run: go test -bench . -count 5 ./metrics
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
	"github.com/prometheus/procfs"
	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/host"
	"github.com/tierkit/tierkit/metrics/prombridge"
)

func newMetrics(b *testing.B) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func newHTTP(b *testing.B, m *metrics.Metrics) *metrics.HTTP {
	h, err := m.HTTP(metrics.HTTPOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return h
}

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
		serve(b, newHTTP(b, newMetrics(b)).Wrap(hello))
	})
	b.Run("promhttp-four", func(b *testing.B) {
		reg := prometheus.NewRegistry()
		count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c"}, []string{"code", "method"})
		took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "d"}, []string{"code", "method"})
		size := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "s"}, []string{})
		flight := prometheus.NewGauge(prometheus.GaugeOpts{Name: "f"})
		reg.MustRegister(count, took, size, flight)
		serve(b, promhttp.InstrumentHandlerInFlight(flight,
			promhttp.InstrumentHandlerCounter(count,
				promhttp.InstrumentHandlerDuration(took, promhttp.InstrumentHandlerResponseSize(size, hello)))))
	})
	b.Run("otelhttp", func(b *testing.B) {
		serve(b, otelhttp.NewHandler(hello, "x",
			otelhttp.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())))))
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
		var c audience.Counter
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
		var s audience.Sketch
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
	var s audience.Sketch
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

// BenchmarkScrape answers one scrape of 10,000 series: counters with three labels, and then the histograms of 230
// routes.
func BenchmarkScrape(b *testing.B) {
	scrape := func(b *testing.B, h http.Handler, header ...string) {
		r := httptest.NewRequest("GET", "/metrics", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := &nullWriter{http.Header{}}
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(w, r)
		}
	}
	const n = 10_000
	type counter struct {
		Server string `label:"server"`
		Route  string `label:"route"`
		Class  string `label:"class"`
		N      uint64 `metric:"requests_total,counter,Requests"`
	}
	counters := make([]counter, n)
	reg := prometheus.NewRegistry()
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shop_requests_total", Help: "Requests"},
		[]string{"server", "route", "class"})
	reg.MustRegister(vec)
	set := vm.NewSet()
	for i := range counters {
		c := counter{"web", fmt.Sprintf("GET /route/%d/{id}", i), "2xx", uint64(i) * 7919}
		counters[i] = c
		vec.WithLabelValues(c.Server, c.Route, c.Class).Add(float64(c.N))
		set.NewCounter(fmt.Sprintf("shop_requests_total{server=%q,route=%q,class=%q}", c.Server, c.Route, c.Class)).Set(
			c.N)
	}
	m := newMetrics(b)
	if err := m.Register(metrics.Collect("shop", func() []counter { return counters })); err != nil {
		b.Fatal(err)
	}
	prom := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	b.Run("counters/tierkit", func(b *testing.B) { scrape(b, m.Handler()) })
	b.Run("counters/promhttp", func(b *testing.B) { scrape(b, prom) })
	b.Run("counters/victoriametrics", func(b *testing.B) {
		scrape(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { set.WritePrometheus(w) }))
	})
	b.Run("counters-gzip/tierkit", func(b *testing.B) { scrape(b, m.Handler(), "Accept-Encoding", "gzip") })
	b.Run("counters-gzip/promhttp", func(b *testing.B) { scrape(b, prom, "Accept-Encoding", "gzip") })

	m = newMetrics(b)
	web := newHTTP(b, m).Wrap(hello)
	for i := range 230 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Pattern = fmt.Sprintf("GET /route/%d/{id}", i)
		web.ServeHTTP(&nullWriter{http.Header{}}, r)
	}
	b.Run("histograms/tierkit", func(b *testing.B) { scrape(b, m.Handler()) })
	b.Run("histograms/promhttp", func(b *testing.B) {
		scrape(b, promhttp.HandlerFor(prombridge.Gatherer(m), promhttp.HandlerOpts{}))
	})
}

// BenchmarkHost reads the machine once.
func BenchmarkHost(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			host.Read()
		}
	})
	b.Run("gopsutil", func(b *testing.B) { // less: no disks' traffic, no pressure, no cgroup
		b.ReportAllocs()
		for b.Loop() {
			_, _ = cpu.Times(false)
			_, _ = load.Avg()
			_, _ = mem.VirtualMemory()
			_, _ = net.IOCounters(false)
			_, _ = disk.Usage(".")
		}
	})
	b.Run("procfs", func(b *testing.B) { // the parser of node_exporter
		fs, err := procfs.NewDefaultFS()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			_, _ = fs.Stat()
			_, _ = fs.LoadAvg()
			_, _ = fs.Meminfo()
			_, _ = fs.NetDev()
			_, _ = fs.PSIStatsForResource("cpu")
		}
	})
}
