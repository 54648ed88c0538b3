package metrics_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

// check ends an example that cannot go on.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

func Example() {
	m, err := metrics.New(metrics.Options{Namespace: "shop", NoRuntime: true})
	check(err)
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	check(err)
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
	page, _ := m.Scrape("")
	for line := range strings.Lines(string(page)) {
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
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	check(err)
	check(m.Register(metrics.Collect("pool", func() Stats {
		s := Stats{Jobs: 7, Busy: 1500 * time.Millisecond}
		s.Workers = append(s.Workers, struct {
			Name string `label:"worker"`
			Up   bool   `metric:"worker_up,gauge,Whether it runs"`
		}{"a", true})
		return s
	})))
	show(m, "pool")
	// Output:
	// pool_busy_seconds_total 1.5
	// pool_jobs_total 7
	// pool_worker_up{worker="a"} 1
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
