package metrics

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
)

const (
	openMetricsAccept = "application/openmetrics-text;version=1.0.0"
	protobufAccept    = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)

// everything registers collectors of all kinds, with values that a format has to escape or spell in its own way.
func everything(t *testing.T) *Metrics {
	m := mustNew(t, Options{NoRuntime: true, Namespace: "shop"})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 5000))
	})
	mux.HandleFunc("POST /items/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	h := mustHTTP(t, m, HTTPOptions{Server: `we"b\1`}).Wrap(mux)
	for i := range 50 {
		r := httptest.NewRequest([]string{"GET", "POST", "BREW"}[i%3], "/items/7",
			strings.NewReader(strings.Repeat("b", i*i)))
		if i%7 == 0 {
			r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	payments, err := m.Client("payments", roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 404, Body: http.NoBody, ContentLength: 3}, nil
	}))
	require.NoError(t, err)
	res, err := (&http.Client{Transport: payments}).Get("http://x/")
	require.NoError(t, err)
	res.Body.Close()
	require.NoError(t, m.Register(collectorFunc(func(s *Scrape) {
		s.Counter("shop_sales_revenue_cents_total", "Revenue, \"gross\"\nin cents", 123456789)
	})))
	type backend struct {
		Name string  `label:"backend"`
		Load float64 `metric:"backend_load,gauge,Load"`
		Up   bool    `metric:"backend_up,gauge,Up"`
	}
	type stats struct {
		Requests uint64 `metric:"requests_total,counter,Requests"`
		Odd      int    `metric:"odd_count,counter,A counter without its suffix"`
		Waited   time.Duration
		Idle     *backend
		Backends []backend
	}
	for _, node := range []string{"a\nb", "ü"} {
		require.NoError(t, m.Register(WithLabels(map[string]string{"node": node, "zone": "eu"},
			Collect("shop_lb", func() stats {
				return stats{Requests: 1 << 50, Odd: 3, Idle: &backend{"idle", math.Inf(1), true},
					Backends: []backend{{"x", 0.125, true}, {"y", 1e-9, false}, {"z", 1e21, true}}}
			}))))
	}
	return m
}

type collectorFunc func(*Scrape)

func (f collectorFunc) Collect(s *Scrape) { f(s) }

func ask(h http.Handler, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*?)\})? ([^ ]+)( # .*)?$`)

// normal brings the lines of an exposition to one order, with sorted labels and numbers in one spelling.
func normal(t *testing.T, text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "#") {
			f := sampleLine.FindStringSubmatch(line)
			require.NotNil(t, f, line)
			labels := strings.Split(f[2], `",`)
			sort.Strings(labels)
			v, err := strconv.ParseFloat(f[3], 64)
			require.NoError(t, err, line)
			if f[4] != "" { // an exemplar's time is spelled with other precision
				f[4] = f[4][:strings.LastIndexByte(f[4], ' ')]
			}
			line = fmt.Sprint(f[1], strings.ReplaceAll(strings.Join(labels, ","), `"`, ""), " ", v, f[4])
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// The oracle is what Prometheus's own library writes of the protobuf page, which it also validates.
func TestTextIsWhatPrometheusWouldWrite(t *testing.T) {
	m := everything(t)
	oracle := promhttp.HandlerFor(gatherer(m), promhttp.HandlerOpts{EnableOpenMetrics: true})
	for _, accept := range []string{"", "text/plain;version=0.0.4", openMetricsAccept} {
		want, got := ask(oracle, "Accept", accept), ask(m.Handler(), "Accept", accept)
		require.Equal(t, want.Header().Get("Content-Type"), got.Header().Get("Content-Type"))
		require.Equal(t, normal(t, want.Body.String()), normal(t, got.Body.String()))
	}
	text := ask(m.Handler()).Body.String()
	seen := map[string]bool{} // all samples of a name stand together
	last := ""
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			require.False(t, seen[name], name)
			seen[name], last = true, name
		} else if !strings.HasPrefix(line, "#") {
			require.True(t, strings.HasPrefix(line, last), line)
		}
	}
	om := ask(m.Handler(), "Accept", openMetricsAccept).Body.String()
	require.True(t, strings.HasSuffix(om, "# EOF\n"))
	require.Contains(t, om, `# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} `)
	require.NotContains(t, text, "trace_id", "the text format has no exemplars")
}

func TestScrapeIsCompressedWhenAsked(t *testing.T) {
	m := everything(t)
	plain, zipped := ask(m.Handler()), ask(m.Handler(), "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", zipped.Header().Get("Content-Encoding"))
	z, err := gzip.NewReader(zipped.Body)
	require.NoError(t, err)
	b, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Equal(t, normal(t, plain.Body.String()), normal(t, string(b)))
}

func TestNativeHistogramsInProtobuf(t *testing.T) {
	m := everything(t)
	res := ask(m.Handler(), "Accept", protobufAccept)
	dec := expfmt.NewDecoder(res.Body, expfmt.NewFormat(expfmt.TypeProtoDelim))
	exemplars := 0
	for {
		var mf dto.MetricFamily
		if err := dec.Decode(&mf); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		if mf.GetName() != "shop_http_request_duration_seconds" {
			continue
		}
		for _, x := range mf.GetMetric() {
			h := x.GetHistogram()
			require.EqualValues(t, 3, h.GetSchema())
			// Counts of the native buckets are the running sum of the deltas.
			n, at, i := h.GetZeroCount(), int64(0), 0
			for _, span := range h.GetPositiveSpan() {
				for range span.GetLength() {
					at += h.GetPositiveDelta()[i]
					n += uint64(at)
					i++
				}
			}
			require.Len(t, h.GetPositiveDelta(), i)
			require.Equal(t, h.GetSampleCount(), n)
			require.NotZero(t, n)
			for _, b := range h.GetBucket() {
				if b.Exemplar != nil {
					exemplars++
					require.LessOrEqual(t, b.Exemplar.GetValue(), b.GetUpperBound())
				}
			}
		}
	}
	require.NotZero(t, exemplars)
}

func TestOneBrokenCollectorDoesNotHideTheOthers(t *testing.T) {
	m := everything(t)
	broken := true
	type part struct {
		Name string `label:"name"`
		N    int    `metric:"n,gauge,N"`
	}
	require.NoError(t, m.Register(Collect("shop_broken", func() []part {
		if broken {
			panic("not ready")
		}
		return []part{{"a", 1}}
	})))
	text := scrape(t, m)
	require.Contains(t, text, "shop_metrics_collector_failures 1\n")
	require.Contains(t, text, "shop_http_requests_total")
	require.NotContains(t, text, "shop_broken")
	broken = false
	text = scrape(t, m)
	require.Contains(t, text, `shop_broken_n{name="a"} 1`)
	require.NotContains(t, text, "collector_failures")
}

// gatherer reads the protobuf page with Prometheus's own library, and sorts as its registry does.
func gatherer(m *Metrics) prometheus.Gatherer {
	return prometheus.Gatherers{prometheus.GathererFunc(func() (families []*dto.MetricFamily, err error) {
		page, contentType := m.Scrape(protobufAccept)
		dec := expfmt.NewDecoder(bytes.NewReader(page), expfmt.Format(contentType))
		for {
			f := &dto.MetricFamily{}
			if err := dec.Decode(f); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				return families, err
			}
			for _, x := range f.Metric {
				slices.SortFunc(x.Label, func(a, b *dto.LabelPair) int {
					return strings.Compare(a.GetName(), b.GetName())
				})
			}
			families = append(families, f)
		}
	})}
}
