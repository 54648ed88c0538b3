// Metrics shows one wrapper around a mux, a tier's Stats turned into series, unique users, and the health endpoints.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/host"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/slo"
	"github.com/tierkit/tierkit/metrics/trace"
)

// poolStats is what any tier offers: a struct with tags.
type poolStats struct {
	Workers int `metric:"workers,gauge,Workers of the pool"`
}

func main() {
	requests := flag.Int("n", 2000, "requests to send")
	flag.Parse()
	if *requests < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "metrics: -n must be at least 1, and no arguments are taken")
		os.Exit(2)
	}
	if err := run(*requests); err != nil {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		os.Exit(1)
	}
}

func run(n int) error {
	m, err := metrics.New(metrics.Options{Namespace: "shop"})
	if err != nil {
		return err
	}
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	if err != nil {
		return err
	}
	if _, err := host.New(m); err != nil {
		return err
	}
	if err := m.Register(metrics.Collect("shop_pool", func() poolStats { return poolStats{Workers: 4} })); err != nil {
		return err
	}
	available, err := slo.New(m, slo.Options{Name: "available", Objective: 0.999, Read: web.Availability()})
	if err != nil {
		return err
	}
	users := audience.NewUniques(nil)
	log := logs.NewHandler(slog.NewTextHandler(io.Discard, nil), logs.HandlerOptions{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		users.Add(r.Header.Get("User"), time.Now())
		fmt.Fprintf(w, "item %s\n", r.PathValue("id"))
	})
	mux.HandleFunc("GET /broken", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	})
	srv := httptest.NewServer(trace.AccessLog(slog.New(log), web.Wrap(mux)))
	defer srv.Close()

	for i := range n {
		path := fmt.Sprintf("/items/%d", i)
		switch {
		case i%100 == 0:
			path = "/broken"
		case i%50 == 0:
			path = fmt.Sprintf("/scan/%d.php", i) // a scanner: no series for its paths
		}
		req, err := http.NewRequest("GET", srv.URL+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("User", fmt.Sprintf("user-%d", i%700))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}

	s := web.Stats()
	fmt.Printf("%d requests, %d errors, p50 %v, p99 %v\n", s.Requests, s.Errors,
		s.Took.Quantile(.5).Round(time.Microsecond), s.Took.Quantile(.99).Round(time.Microsecond))
	fmt.Printf("%d unique users today\n", users.At(time.Now()).Day)
	for _, g := range log.Errors() {
		fmt.Printf("error group %q: %d times\n", g.Message, g.Count)
	}
	st := available.Status()
	fmt.Printf("SLO %s: %.2f %% good, the error budget burns %.0f times too fast, alert: %s\n", st.Name, 100*st.Good,
		st.Burn1h, st.Alert)
	fmt.Printf("%d rules for Prometheus\n", strings.Count(string(slo.Rules(m)), "expr:"))
	page, _ := m.Scrape("")
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "shop_http_requests_total") || strings.HasPrefix(line, "shop_pool") {
			fmt.Print(line)
		}
	}
	return nil
}
