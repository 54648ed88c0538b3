package lb_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/limit"
	"github.com/tierkit/tierkit/lb/policy"
)

// A request that is slow to answer goes to a second backend too; the answer that comes first is passed on.
func ExampleHedge() {
	// hangs
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	b, stop := backend("b")
	defer stop()
	pool, err := lb.New([]lb.Endpoint{{ID: "a", Addr: strings.TrimPrefix(slow.URL, "http://")}, b}, lb.Options{
		Policy: policy.RoundRobin(), // begins with the slow one
		Hedge:  lb.Hedge{After: 10 * time.Millisecond, Quantile: 0.95},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	w := httptest.NewRecorder()
	handler(pool).ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
	fmt.Println(w.Body.String(), pool.Stats().HedgesWon)
	// Output: b 1
}

// A balancer that limits what is in flight by what it measures: more than that is refused at once, the less important
// first, so that what is let in is still answered in time.
func ExampleAdaptive() {
	a, stop := backend("a")
	defer stop()
	pool, err := lb.New([]lb.Endpoint{a}, lb.Options{Adaptive: &lb.Adaptive{
		Priority: func(r *http.Request) int {
			if strings.HasPrefix(r.URL.Path, "/feed") {
				return -1 // a page without it is still a page
			}
			return 0
		},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	w := httptest.NewRecorder()
	handler(pool).ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
	fmt.Println(w.Code, pool.Stats().Limit, pool.Stats().Shed) // beyond the limit: 503 with Retry-After
	// Output: 200 100 0
}

// Each backend wraps its service with a LoadMeter and serves the meter; the balancer asks beside its requests.
func ExamplePrequal() {
	var meter limit.LoadMeter
	mux := http.NewServeMux()
	mux.Handle("/load", &meter) // for the balancers only
	mux.Handle("/", meter.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	})))
	server := httptest.NewServer(mux)
	defer server.Close()
	pool, err := lb.New([]lb.Endpoint{{Addr: strings.TrimPrefix(server.URL, "http://")}}, lb.Options{
		Policy: lb.Prequal(lb.PrequalOptions{Path: "/load"}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	w := httptest.NewRecorder()
	handler(pool).ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
	fmt.Println(w.Body.String())
	// Output: hello
}
