package metrics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/race"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func scrape(t *testing.T, m *Metrics) string {
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, rec.Code)
	return rec.Body.String()
}

func TestHistogramBucketsAreNative(t *testing.T) {
	for range 100_000 {
		d := time.Duration(rand.Uint64() >> (1 + rand.IntN(60)))
		i := bucket(d)
		if i > 0 && i < buckets-1 {
			require.LessOrEqual(t, d.Seconds(), upper(i)*(1+1e-15), d)
			require.Greater(t, d.Seconds(), upper(i-1)*(1-1e-15), d)
		}
	}
	require.Equal(t, 0, bucket(0))
	require.Equal(t, buckets-1, bucket(math.MaxInt64))
	require.Equal(t, 1.0, upper(-firstIndex), "index 0 of schema 3 ends at 1")
	require.Equal(t, -firstIndex, bucket(time.Second), "and includes it")
}

func TestHistogramQuantiles(t *testing.T) {
	var h Histogram
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(rand.ExpFloat64() * 20e6)
		all = append(all, d)
		h.Observe(d)
	}
	slices.Sort(all)
	s := h.Snapshot()
	for _, q := range []float64{.5, .9, .99, .999} {
		want := all[int(q*float64(len(all)))]
		require.InEpsilon(t, float64(want), float64(s.Quantile(q)), 0.06, "q %v", q)
	}
	require.Equal(t, all[len(all)-1], s.Max)
	require.Equal(t, s.Max, s.Quantile(1))
	require.Zero(t, (&HistogramSnapshot{}).Quantile(.5))
	h.Observe(time.Hour)
	rest := h.Snapshot().Sub(s)
	require.EqualValues(t, 1, rest.Count)
	require.Equal(t, time.Hour, rest.Sum)
}

func TestCollect(t *testing.T) {
	type backend struct {
		Name string `label:"backend"`
		Up   bool   `metric:"backend_up,gauge,Whether it is up"`
	}
	type stats struct {
		Requests uint64        `metric:"requests_total,counter,Requests"`
		Waited   time.Duration `metric:"wait_seconds_total,counter,Time waited"`
		Load     float64       `metric:"load,gauge,Load"`
		Backends []backend
		Ignored  int
	}
	c := Collect("lb", func() stats {
		return stats{7, 1500 * time.Millisecond, .5, []backend{{"a", true}, {"b", false}}, 9}
	})
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP lb_backend_up Whether it is up
# TYPE lb_backend_up gauge
lb_backend_up{backend="a"} 1
lb_backend_up{backend="b"} 0
# HELP lb_load Load
# TYPE lb_load gauge
lb_load 0.5
# HELP lb_requests_total Requests
# TYPE lb_requests_total counter
lb_requests_total 7
# HELP lb_wait_seconds_total Time waited
# TYPE lb_wait_seconds_total counter
lb_wait_seconds_total 1.5
`)))
}

func TestCollectDB(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Ping())
	m := New(Options{NoHost: true, NoRuntime: true})
	require.NoError(t, m.Register(CollectDB("db", "main", db)))
	require.Contains(t, scrape(t, m), `db_connections_open{db="main"} 1`)
}

func TestHTTPLabelsComeFromTheProgram(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true, Namespace: "shop"})
	h := m.HTTP(HTTPOptions{Server: "web"})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "item") })
	mux.HandleFunc("GET /fail", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	mux.HandleFunc("GET /panic", func(w http.ResponseWriter, r *http.Request) { panic("boom") })
	srv := h.Wrap(mux)
	get := func(method, target, host string) {
		defer func() { _ = recover() }()
		r := httptest.NewRequest(method, target, nil)
		r.Host = host
		srv.ServeHTTP(httptest.NewRecorder(), r)
	}
	for i := range 10_000 { // an attacker varies whatever a client can vary
		get(fmt.Sprintf("M%d", i), fmt.Sprintf("/%d/%d", i, rand.Int()), fmt.Sprintf("h%d.example", i))
	}
	get("GET", "/items/7", "shop.example")
	get("GET", "/fail", "shop.example")
	get("GET", "/panic", "shop.example")
	out := scrape(t, m)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="GET /items/{id}",method="GET",class="2xx"} 1`)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="GET /fail",method="GET",class="5xx"} 1`)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="GET /panic",method="GET",class="5xx"} 1`)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="unmatched",method="other",class="4xx"} 10000`)
	require.Less(t, strings.Count(out, "\n"), 220)
	require.EqualValues(t, 10_003, h.Stats().Requests)
	require.EqualValues(t, 2, h.Stats().Errors)
	require.Zero(t, h.Stats().InFlight)
}

func TestScrapeIsConsistentAndLintsClean(t *testing.T) {
	m := New(Options{})
	h := m.HTTP(HTTPOptions{})
	srv := h.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
				}
			}
		})
	}
	for range 20 {
		var count, inf string
		for line := range strings.Lines(scrape(t, m)) {
			if strings.HasPrefix(line, "http_request_duration_seconds_count") {
				count = strings.Fields(line)[1]
			}
			if strings.HasPrefix(line, "http_request_duration_seconds_bucket") && strings.Contains(line, `le="+Inf"`) {
				inf = strings.Fields(line)[1]
			}
		}
		require.Equal(t, inf, count)
	}
	close(stop)
	wg.Wait()
	problems, err := testutil.GatherAndLint(m.Gatherer())
	require.NoError(t, err)
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "go_") { // client_golang's own names
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestHTTPDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	m := New(Options{NoHost: true, NoRuntime: true})
	srv := m.HTTP(HTTPOptions{}).Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(204)
	}))
	w, r := &nullWriter{http.Header{}}, httptest.NewRequest("GET", "/", nil)
	require.Zero(t, testing.AllocsPerRun(1000, func() { srv.ServeHTTP(w, r) }))
}

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

func TestClient(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true})
	var header http.Header
	c := http.Client{Transport: m.Client("payments", roundTripper(func(r *http.Request) (*http.Response, error) {
		header = r.Header
		if r.URL.Path == "/down" {
			return nil, errors.New("refused")
		}
		return &http.Response{StatusCode: 200, ContentLength: 70, Body: http.NoBody}, nil
	}))}
	res, err := c.Get("http://x/")
	require.NoError(t, err)
	res.Body.Close()
	require.Empty(t, header.Get("Traceparent"))
	ids := &IDs{Trace: "4bf92f3577b34da6a3ce929d0e0e4736", Sampled: true}
	r, _ := http.NewRequestWithContext(WithIDs(t.Context(), ids), "POST", "http://x/down", strings.NewReader("abc"))
	_, err = c.Do(r)
	require.Error(t, err)
	trace, _, sampled, ok := ParseTraceparent(header.Get("Traceparent"))
	require.True(t, ok && sampled)
	require.Equal(t, ids.Trace, trace)
	require.Empty(t, r.Header, "the caller's request is not changed")
	out := scrape(t, m)
	require.Contains(t, out, `http_client_requests_total{client="payments",method="GET",class="2xx"} 1`)
	require.Contains(t, out, `http_client_requests_total{client="payments",method="POST",class="5xx"} 1`)
	require.Contains(t, out, `http_client_response_size_bytes_bucket{client="payments",method="GET",le="64"} 0`)
	require.Contains(t, out, `http_client_response_size_bytes_bucket{client="payments",method="GET",le="256"} 1`)
	require.Contains(t, out, `http_client_request_size_bytes_sum{client="payments",method="POST"} 3`)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestUniques(t *testing.T) {
	var sq float64
	for run := range 20 {
		var s Sketch
		for i := range 100_000 {
			s.Add(fmt.Sprintf("user-%d-%d", run, i))
		}
		e := float64(s.Estimate())/100_000 - 1
		sq += e * e
	}
	require.Less(t, math.Sqrt(sq/20), 0.012)

	// Two nodes that served the same users; a restart of one; a day change.
	a, b := NewUniques(nil), NewUniques(nil)
	sunday := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	for i := range 10_000 {
		u := fmt.Sprintf("user-%d", i)
		a.Add(u, sunday)
		b.Add(u, sunday)
		if i < 1000 {
			b.Add(u, sunday.Add(2*time.Minute)) // Monday
		}
	}
	require.NoError(t, a.Import(b.Export()))
	again := NewUniques(nil)
	require.NoError(t, again.Import(a.Export()))
	require.InEpsilon(t, 10_000, again.At(sunday).Day, 0.02)
	monday := again.At(sunday.Add(2 * time.Minute))
	require.InEpsilon(t, 1000, monday.Day, 0.02)
	require.InEpsilon(t, 1000, monday.Week, 0.02, "a week begins on Monday")
	require.InEpsilon(t, 10_000, monday.Month, 0.02)
	require.ErrorIs(t, again.Import(map[string][]byte{"2026-03-01": []byte("nonsense")}), ErrSketch)
	require.Error(t, again.Import(map[string][]byte{"yesterday": nil}))
	for i := range 400 { // old days are forgotten
		again.Add("x", sunday.AddDate(0, 0, i))
	}
	require.LessOrEqual(t, len(again.Export()), keepDays+1)
}

func FuzzSketch(f *testing.F) {
	var s Sketch
	s.Add("a")
	b, _ := s.MarshalBinary()
	f.Add(b)
	f.Add([]byte("HLL1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sketch
		if s.UnmarshalBinary(b) == nil {
			s.Estimate()
			s.Add("x")
		}
	})
}

func TestBusiness(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true, Namespace: "shop"})
	b, err := m.NewBusiness("sales")
	require.NoError(t, err)
	cents := b.Counter("revenue_cents_total", "Revenue in cents")
	cents.Add(1999)
	cents.Add(-5)
	require.Same(t, cents, b.Counter("revenue_cents_total", ""))
	require.Contains(t, scrape(t, m), "shop_sales_revenue_cents_total 1999")
	require.Equal(t, map[string]int64{"revenue_cents_total": 1999}, b.Values())
}

func TestRegisterTwice(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true})
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"})
	require.NoError(t, m.Register(c))
	require.Error(t, m.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"})))
}

func TestHealth(t *testing.T) {
	h := NewHealth(HealthOptions{Timeout: 50 * time.Millisecond, Cache: time.Nanosecond})
	var dbErr error
	h.Check("db", func(context.Context) error { return dbErr })
	status := func(x http.Handler) (int, string) {
		rec := httptest.NewRecorder()
		x.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		return rec.Code, strings.TrimSpace(rec.Body.String())
	}
	check := func(live, startup, ready int) {
		t.Helper()
		for i, x := range []http.Handler{h.Live(), h.Startup(), h.Ready()} {
			got, _ := status(x)
			require.Equal(t, []int{live, startup, ready}[i], got)
		}
	}
	check(200, 503, 503)
	h.Started()
	check(200, 200, 200)
	dbErr = errors.New("password=hunter2 refused")
	check(200, 200, 503)
	_, body := status(h.Ready())
	require.JSONEq(t, `{"state":"not ready","failed":["db"]}`, body, "the error itself stays inside")
	dbErr = nil
	h.Check("hung", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	check(200, 200, 503)
	h.Check("hung", func(context.Context) error { return nil })
	h.Drain()
	check(200, 200, 503)
}

func TestHealthIsNotHeldUp(t *testing.T) {
	h := NewHealth(HealthOptions{Timeout: 20 * time.Millisecond, Cache: time.Nanosecond})
	hung := make(chan struct{})
	defer close(hung)
	h.Check("deaf", func(context.Context) error { <-hung; return nil })
	h.Check("broken", func(context.Context) error { panic("nil map") })
	h.Check("fine", func(context.Context) error { return nil })
	require.Equal(t, map[string]string{"deaf": "no answer in time", "broken": "panic: nil map"},
		h.Failures(t.Context()))
}
