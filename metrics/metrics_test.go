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

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/metrics/internal/ids"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustNew(t testing.TB, o Options) *Metrics {
	m, err := New(o)
	require.NoError(t, err)
	return m
}

func mustHTTP(t testing.TB, m *Metrics, o HTTPOptions) *HTTP {
	h, err := m.HTTP(o)
	require.NoError(t, err)
	return h
}

func scrape(t *testing.T, m *Metrics) string {
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, rec.Code)
	return rec.Body.String()
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

// Each quantile is within 4.5 % of the observation of its rank, also where all observations are at one edge of a
// bucket.
func TestQuantilesAreWithinTheirBound(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var h Histogram
		all := make([]time.Duration, 1+r.IntN(400))
		spread, base := r.Float64()*10, 200+r.Float64()*1e8
		for i := range all {
			all[i] = min(time.Duration(base*math.Exp(spread*r.Float64())), time.Hour)
			h.Observe(all[i])
		}
		slices.Sort(all)
		s := h.Snapshot()
		for _, q := range []float64{.001, .1, .5, .9, .99, .999, 1} {
			want := all[int(math.Ceil(q*float64(len(all))))-1]
			require.InEpsilon(t, float64(want), float64(s.Quantile(q)), 0.045, "q %v of %d", q, len(all))
		}
	}
	for _, d := range []time.Duration{1001 * time.Millisecond, 1090 * time.Millisecond, time.Second} {
		var h Histogram
		for range 100 {
			h.Observe(d)
		}
		h.Observe(time.Hour)
		s := h.Snapshot()
		require.InEpsilon(t, float64(d), float64(s.Quantile(.5)), 0.045)
	}
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
	m := mustNew(t, Options{NoRuntime: true})
	require.NoError(t, m.Register(c))
	require.Equal(t, strings.TrimPrefix(`
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
`, "\n"), scrape(t, m))
}

func TestCollectDB(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Ping())
	m := mustNew(t, Options{NoRuntime: true})
	require.NoError(t, m.Register(CollectDB("db", "main", db)))
	require.Contains(t, scrape(t, m), `db_connections_open{db="main"} 1`)
}

func TestHTTPLabelsComeFromTheProgram(t *testing.T) {
	m := mustNew(t, Options{NoRuntime: true, Namespace: "shop"})
	h := mustHTTP(t, m, HTTPOptions{Server: "web"})
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
	require.Contains(t, out,
		`shop_http_requests_total{server="web",route="GET /items/{id}",method="GET",class="2xx"} 1`)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="GET /fail",method="GET",class="5xx"} 1`)
	require.Contains(t, out, `shop_http_requests_total{server="web",route="GET /panic",method="GET",class="5xx"} 1`)
	require.Contains(t, out,
		`shop_http_requests_total{server="web",route="unmatched",method="other",class="4xx"} 10000`)
	require.Less(t, strings.Count(out, "\n"), 220)
	require.EqualValues(t, 10_003, h.Stats().Requests)
	require.EqualValues(t, 2, h.Stats().Errors)
	require.Zero(t, h.Stats().InFlight)
}

func TestPanicAfterTheHeaderIsAnError(t *testing.T) {
	m := mustNew(t, Options{NoRuntime: true})
	h := mustHTTP(t, m, HTTPOptions{})
	srv := h.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		io.WriteString(w, "half of it")
		panic("boom")
	}))
	require.Panics(t, func() { srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)) })
	require.EqualValues(t, 1, h.Stats().Errors)
	require.Contains(t, scrape(t, m), `class="5xx"} 1`)
}

type contextKey struct{}

// A middleware between Wrap and the mux that replaces the request hides the pattern that the mux finds.
func TestRouteBehindAMiddlewareThatReplacesTheRequest(t *testing.T) {
	m := mustNew(t, Options{NoRuntime: true})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(http.ResponseWriter, *http.Request) {})
	middleware := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, 1)))
		})
	}
	routes := func(h http.Handler) string {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/items/7", nil))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/nothing", nil))
		return scrape(t, m)
	}
	a := mustHTTP(t, m, HTTPOptions{Server: "a", Mux: mux})
	text := routes(a.Wrap(middleware(mux)))
	require.Contains(t, text, `requests_total{server="a",route="GET /items/{id}",method="GET",class="2xx"} 1`)
	require.Contains(t, text, `requests_total{server="a",route="unmatched",method="GET",class="4xx"} 1`)

	b := mustHTTP(t, m, HTTPOptions{Server: "b", Route: func(r *http.Request) string {
		if strings.HasPrefix(r.URL.Path, "/items/") {
			return "/items/:id" // as another router names it
		}
		panic("no route")
	}})
	text = routes(b.Wrap(middleware(mux)))
	require.Contains(t, text, `requests_total{server="b",route="/items/:id",method="GET",class="2xx"} 1`)
	require.Contains(t, text, `requests_total{server="b",route="unmatched",method="GET",class="4xx"} 1`)
}

func TestScrapeIsConsistentAndLintsClean(t *testing.T) {
	m := mustNew(t, Options{})
	h := mustHTTP(t, m, HTTPOptions{})
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
	problems, err := testutil.GatherAndLint(gatherer(m))
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
	m := mustNew(t, Options{NoRuntime: true})
	srv := mustHTTP(t, m, HTTPOptions{}).Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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
	m := mustNew(t, Options{NoRuntime: true})
	var header http.Header
	payments, err := m.Client("payments", roundTripper(func(r *http.Request) (*http.Response, error) {
		header = r.Header
		if r.URL.Path == "/down" {
			return nil, errors.New("refused")
		}
		return &http.Response{StatusCode: 200, ContentLength: 70, Body: http.NoBody}, nil
	}))
	require.NoError(t, err)
	c := http.Client{Transport: payments}
	res, err := c.Get("http://x/")
	require.NoError(t, err)
	res.Body.Close()
	require.Empty(t, header.Get("Traceparent"))
	id := &ids.IDs{Trace: "4bf92f3577b34da6a3ce929d0e0e4736", Sampled: true}
	r, _ := http.NewRequestWithContext(ids.With(t.Context(), id), "POST", "http://x/down", strings.NewReader("abc"))
	_, err = c.Do(r)
	require.Error(t, err)
	trace, _, sampled, ok := ids.Parse(header.Get("Traceparent"))
	require.True(t, ok && sampled)
	require.Equal(t, id.Trace, trace)
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
