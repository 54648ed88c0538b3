package lb_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
)

func backend(name string) (lb.Endpoint, func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) }))
	return lb.Endpoint{ID: name, Addr: strings.TrimPrefix(s.URL, "http://")}, s.Close
}

// handler serves a pool with the default options.
func handler(pool *lb.Balancer) http.Handler {
	h, err := pool.Handler(lb.ProxyOptions{})
	if err != nil {
		panic(err)
	}
	return h
}

func Example() {
	a, stopA := backend("a")
	defer stopA()
	b, stopB := backend("b")
	defer stopB()
	pool, err := lb.New([]lb.Endpoint{a, b}, lb.Options{Policy: policy.RoundRobin()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	for range 4 {
		w := httptest.NewRecorder()
		handler(pool).ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
		fmt.Print(w.Body.String(), " ")
	}
	// Output: a b a b
}

func ExampleBalancer_Pick() {
	pool, _ := lb.New([]lb.Endpoint{{ID: "a", Addr: "10.0.0.1:80", Weight: 2}, {ID: "b", Addr: "10.0.0.2:80"}},
		lb.Options{Policy: policy.WeightedRoundRobin()})
	defer pool.Close()
	for range 6 {
		lease, err := pool.Pick(context.Background(), lb.Key{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(lease.Backend().ID(), " ")
		lease.Done(lb.Result{Latency: time.Millisecond}) // how it went decides where the next ones go
	}
	// Output: a b a a b a
}

func ExampleBalancer_RoundTripper() {
	a, stop := backend("a")
	defer stop()
	pool, _ := lb.New([]lb.Endpoint{a}, lb.Options{})
	defer pool.Close()
	client := &http.Client{Transport: pool.RoundTripper(nil)}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://users.internal/42")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Println(string(body))
	// Output: a
}

func ExampleBalancer_Drain() {
	pool, _ := lb.New([]lb.Endpoint{{ID: "a", Addr: "10.0.0.1:80"}, {ID: "b", Addr: "10.0.0.2:80"}}, lb.Options{})
	defer pool.Close()
	if err := pool.Drain(context.Background(), "a"); err == nil { // returns when its last request has ended
		fmt.Println("a can be taken away")
	}
	lease, _ := pool.Pick(context.Background(), lb.Key{})
	fmt.Println(lease.Backend().ID(), "serves")
	lease.Done(lb.Result{})
	// Output:
	// a can be taken away
	// b serves
}
