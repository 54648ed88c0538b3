package slo_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/slo"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func Example() {
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	check(err)
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	check(err)
	available, err := slo.New(m, slo.Options{Name: "available", Objective: 0.999, Read: web.Availability()})
	check(err)
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
	s := available.Status()
	fmt.Printf("%.3f good, %.0f %% of the error budget left\n", s.Good, 100*s.BudgetLeft)
	fmt.Println(strings.Count(string(slo.Rules(m)), "alert:"), "alerts for Prometheus")
	// Output:
	// 0.998 good, -100 % of the error budget left
	// 7 alerts for Prometheus
}
