package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/dashboard"
)

func Example() {
	m, err := metrics.New(metrics.Options{Namespace: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	if err != nil {
		log.Fatal(err)
	}
	d, err := dashboard.New(m, dashboard.Options{Title: "Shop", Interval: 10 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go d.Run(ctx) // without it the charts stay empty

	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	site := httptest.NewServer(web.Wrap(mux))
	defer site.Close()
	admin := httptest.NewServer(d) // in earnest: http.ListenAndServe("127.0.0.1:9090", d)
	defer admin.Close()

	for !chartMoves(admin.URL + "/data") { // as the page does
		res, err := http.Get(site.URL + "/items/7")
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
	}
	fmt.Println("the chart of requests moves")
	// Output: the chart of requests moves
}

// chartMoves reports whether the first chart has a value above 0.
func chartMoves(url string) bool {
	res, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	var data struct {
		Charts []struct{ Lines []struct{ Points []*float64 } }
	}
	if err := json.NewDecoder(res.Body).Decode(&data); err != nil {
		log.Fatal(err)
	}
	for _, line := range data.Charts[0].Lines {
		for _, p := range line.Points {
			if p != nil && *p > 0 {
				return true
			}
		}
	}
	return false
}
