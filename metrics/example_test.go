package metrics_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

func Example() {
	m := metrics.New(metrics.Options{Namespace: "shop", NoHost: true, NoRuntime: true})
	web := m.HTTP(metrics.HTTPOptions{Server: "web"})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	h := web.Wrap(mux)
	for id := range 3 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", fmt.Sprintf("/items/%d", id), nil))
	}
	show(m, "shop_http_requests_total")
	// Output: shop_http_requests_total{server="web",route="GET /items/{id}",method="GET",class="2xx"} 3
}

// show prints the samples of a scrape that begin with a name.
func show(m *metrics.Metrics, name string) {
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, name) {
			fmt.Print(line)
		}
	}
}

func ExampleCollect() {
	type Stats struct { // what a package offers
		Jobs    uint64        `metric:"jobs_total,counter,Jobs done"`
		Busy    time.Duration `metric:"busy_seconds_total,counter,Time spent on them"`
		Workers []struct {
			Name string `label:"worker"`
			Up   bool   `metric:"worker_up,gauge,Whether it runs"`
		}
	}
	m := metrics.New(metrics.Options{NoHost: true, NoRuntime: true})
	_ = m.Register(metrics.Collect("pool", func() Stats {
		s := Stats{Jobs: 7, Busy: 1500 * time.Millisecond}
		s.Workers = append(s.Workers, struct {
			Name string `label:"worker"`
			Up   bool   `metric:"worker_up,gauge,Whether it runs"`
		}{"a", true})
		return s
	}))
	show(m, "pool")
	// Output:
	// pool_busy_seconds_total 1.5
	// pool_jobs_total 7
	// pool_worker_up{worker="a"} 1
}

func ExampleMetrics_SLO() {
	m := metrics.New(metrics.Options{NoHost: true, NoRuntime: true})
	web := m.HTTP(metrics.HTTPOptions{Server: "web"})
	slo, err := m.SLO(metrics.SLO{Name: "available", Objective: 0.999, Read: web.Availability()})
	if err != nil {
		panic(err)
	}
	down := false
	h := web.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	for i := range 1000 {
		down = i >= 998
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	s := slo.Status()
	fmt.Printf("%.3f good, %.0f %% of the error budget left\n", s.Good, 100*s.BudgetLeft)
	fmt.Println(strings.Count(string(m.Rules()), "alert:"), "alerts for Prometheus")
	// Output:
	// 0.998 good, -100 % of the error budget left
	// 4 alerts for Prometheus
}

func ExampleMetrics_Security() {
	m := metrics.New(metrics.Options{NoHost: true, NoRuntime: true})
	sec := m.Security(metrics.SecurityOptions{})
	// sec.Report fits the Event hooks of packages session and token.
	sec.Report(context.Background(), metrics.FailedLogin, "ada")
	show(m, `security_events_total{kind="failed_login"}`)
	// Output: security_events_total{kind="failed_login"} 1
}

func ExampleNewLogHandler() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	h := metrics.NewLogHandler(text, metrics.LogOptions{Server: "web-1"})
	ctx := metrics.WithIDs(context.Background(), &metrics.IDs{Request: "r-1"})
	slog.New(h).ErrorContext(ctx, "order 7 failed", "password", "hunter2", "err", "no stock")
	slog.New(h).ErrorContext(ctx, "order 8 failed", "err", "no stock")
	for _, g := range h.Errors() {
		fmt.Println(g.Count, g.Message)
	}
	fmt.Println(len(h.Store().Search(metrics.LogQuery{ID: "r-1", Text: "order 8"})), "found")
	// Output:
	// level=ERROR msg="order 7 failed" password=[redacted] err="no stock" request_id=r-1
	// level=ERROR msg="order 8 failed" err="no stock" request_id=r-1
	// 2 order 7 failed
	// 1 found
}

func ExampleShipper() {
	const token = "0123456789abcdef" // from a secret store
	collector := metrics.NewLogStore(metrics.LogStoreOptions{Token: token})
	srv := httptest.NewServer(collector)
	defer srv.Close()

	ship, err := metrics.NewShipper(metrics.ShipperOptions{URL: srv.URL, Token: token})
	if err != nil {
		panic(err)
	}
	log := slog.New(metrics.NewLogHandler(slog.NewTextHandler(io.Discard, nil),
		metrics.LogOptions{Server: "web-1", Ship: ship}))
	log.Info("started")
	_ = ship.Close(context.Background()) // sends what waits
	for _, r := range collector.Recent() {
		fmt.Println(r.Server, r.Message)
	}
	// Output: web-1 started
}

func ExampleUniques() {
	day := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	a, b := metrics.NewUniques(nil), metrics.NewUniques(nil) // two servers
	for i := range 1000 {
		a.Add(fmt.Sprint("user-", i), day)
		b.Add(fmt.Sprint("user-", i), day) // the same users
	}
	_ = a.Import(b.Export())
	n := a.At(day).Day
	fmt.Println(n > 980 && n < 1020)
	// Output: true
}

func ExampleNewRetention() {
	r, err := metrics.NewRetention(metrics.RetentionOptions{})
	if err != nil {
		panic(err)
	}
	monday := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for _, user := range []string{"ada", "ben", "eve"} {
		r.Seen(user, monday, monday)
	}
	r.Seen("ada", monday, monday.AddDate(0, 0, 7))
	for _, c := range r.Cohorts(monday.AddDate(0, 0, 8)) {
		fmt.Println(c.Start.Format(time.DateOnly), c.Active)
	}
	// Output:
	// 2026-03-02 [3 1]
	// 2026-03-09 [0]
}

func ExampleInjectTrace() {
	ctx := metrics.WithIDs(context.Background(),
		&metrics.IDs{Request: "r-1", Trace: "4bf92f3577b34da6a3ce929d0e0e4736"})
	header := map[string]string{} // of a queue message
	metrics.InjectTrace(ctx, func(k, v string) { header[k] = v })

	// In the worker:
	ctx = metrics.ExtractTrace(context.Background(), func(k string) string { return header[k] })
	fmt.Println(metrics.FromContext(ctx).Request, metrics.FromContext(ctx).Trace)
	// Output: r-1 4bf92f3577b34da6a3ce929d0e0e4736
}

func ExampleHealth() {
	h := metrics.NewHealth(metrics.HealthOptions{})
	h.Check("database", func(context.Context) error { return nil })
	ask := func() int {
		rec := httptest.NewRecorder()
		h.Ready().ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
		return rec.Code
	}
	fmt.Print(ask(), " ")
	h.Started()
	fmt.Print(ask(), " ")
	h.Drain() // the first step of a shutdown
	fmt.Println(ask())
	// Output: 503 200 503
}
