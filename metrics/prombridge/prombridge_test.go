package prombridge_test

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sort"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/prombridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMetrics(t *testing.T, o metrics.Options) *metrics.Metrics {
	o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	m, err := metrics.New(o)
	require.NoError(t, err)
	return m
}

var formats = []string{"", "application/openmetrics-text;version=1.0.0",
	"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"}

// foreign is a collector of Prometheus's client with values and labels of all kinds.
func foreign() []prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "foreign", Help: "Of Prometheus's \"own\""}, []string{"k"})
	g.WithLabelValues("v").Set(math.Inf(-1))
	g.WithLabelValues("a\nb").Set(math.NaN())
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "foreign_total", Help: "c"})
	c.Add(7)
	odd := prometheus.NewCounter(prometheus.CounterOpts{Name: "odd_count", Help: "c"})
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "foreign_seconds", Help: "h",
		NativeHistogramBucketFactor: 1.1, Buckets: []float64{1, 2}})
	h.Observe(1.5)
	s := prometheus.NewSummary(prometheus.SummaryOpts{Name: "foreign_summary", Help: "s",
		Objectives: map[float64]float64{.5: .01}})
	s.Observe(3)
	u := prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "foreign_untyped", Help: "u"}, func() float64 {
		return 7
	})
	return []prometheus.Collector{g, c, odd, h, s, u}
}

// What the bridge adds to a scrape is what Prometheus's own handler writes.
func TestForeignCollectors(t *testing.T) {
	labels := prometheus.Labels{"node": "c", "zone": "eu"}
	reg := prometheus.NewRegistry()
	cs := foreign()
	for _, c := range cs {
		prometheus.WrapRegistererWith(labels, reg).MustRegister(c)
	}
	m := newMetrics(t, metrics.Options{NoRuntime: true})
	c, err := prombridge.Collector(cs...)
	require.NoError(t, err)
	require.NoError(t, m.Register(metrics.WithLabels(labels, c)))
	oracle := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	for _, accept := range formats {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", accept)
		want := httptest.NewRecorder()
		oracle.ServeHTTP(want, r)
		got, contentType := m.Scrape(accept)
		require.Equal(t, want.Header().Get("Content-Type"), contentType)
		require.Equal(t, want.Body.String(), string(got), accept)
	}
}

func TestGathererHasNativeHistogramsAndLintsClean(t *testing.T) {
	m := newMetrics(t, metrics.Options{})
	web, err := m.HTTP(metrics.HTTPOptions{})
	require.NoError(t, err)
	web.Wrap(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	n, err := testutil.GatherAndCount(prombridge.Gatherer(m), "http_request_duration_seconds")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	problems, err := testutil.GatherAndLint(prombridge.Gatherer(m))
	require.NoError(t, err)
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "go_") { // names that Prometheus's client gave
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

type broken struct {
	prometheus.Collector
	how func()
}

func (b broken) Collect(chan<- prometheus.Metric) { b.how() }

// A collector of Prometheus's client that panics, or ends its goroutine, costs its own series only, in every format.
func TestBrokenForeignCollector(t *testing.T) {
	for name, how := range map[string]func(){"panics": func() { panic("no") }, "exits": runtime.Goexit} {
		m := newMetrics(t, metrics.Options{NoRuntime: true})
		whole, err := prombridge.Collector(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "whole", Help: "w"},
			func() float64 { return 1 }))
		require.NoError(t, err)
		b, err := prombridge.Collector(broken{prometheus.NewGauge(prometheus.GaugeOpts{Name: "x", Help: "x"}), how})
		require.NoError(t, err)
		require.NoError(t, m.Register(whole, metrics.WithLabels(map[string]string{"node": "a"}, b)))
		for _, accept := range formats {
			page, _ := m.Scrape(accept)
			require.Contains(t, string(page), "whole", "%s %s", name, accept)
			require.Contains(t, string(page), "metrics_collector_failures", "%s %s", name, accept)
		}
	}
}

func TestRegisterTwice(t *testing.T) {
	m := newMetrics(t, metrics.Options{NoRuntime: true})
	x := func() metrics.Collector {
		c, err := prombridge.Collector(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"}))
		require.NoError(t, err)
		return c
	}
	require.NoError(t, m.Register(x()))
	require.ErrorContains(t, m.Register(x()), "x_total")
	_, err := prombridge.Collector(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"}),
		prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"}))
	require.Error(t, err)
}

// The series of the runtime and the process have the names, kinds and labels that Prometheus's client gives them.
func TestRuntimeNamesAreThoseOfPrometheus(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector())
	if runtime.GOOS == "linux" {
		reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	shape := func(g prometheus.Gatherer) (out []string) {
		families, err := g.Gather()
		require.NoError(t, err)
		for _, f := range families {
			for _, x := range f.Metric {
				out = append(out, fmt.Sprint(f.GetName(), f.GetType(), x.GetLabel(), len(x.GetSummary().GetQuantile())))
			}
		}
		sort.Strings(out)
		return out
	}
	got := shape(prombridge.Gatherer(newMetrics(t, metrics.Options{})))
	if runtime.GOOS != "linux" {
		got = got[:len(got)-1] // process_start_time_seconds
	}
	require.Equal(t, shape(reg), got)
}
