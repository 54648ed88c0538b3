// Package metrics shows what every tier of a service does: requests, errors and durations of HTTP, the state of the
// databases and of the machine, users and revenue, logs that can be followed from request to request, health endpoints,
// and one live page with all of it. Without it nobody knows what is going on until a user calls.
//
//	package main
//
//	import (
//		"net/http"
//
//		"github.com/tierkit/tierkit/metrics"
//	)
//
//	func main() {
//		m := metrics.New(metrics.Options{Namespace: "shop"})
//		web := m.HTTP(metrics.HTTPOptions{Server: "web"})
//		mux := http.NewServeMux()
//		mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
//		admin := http.NewServeMux()
//		admin.Handle("GET /metrics", m.Handler())
//		admin.Handle("/", m.Dashboard(metrics.DashboardOptions{Title: "Shop"}))
//		go http.ListenAndServe("127.0.0.1:9090", admin)
//		http.ListenAndServe(":8080", web.Wrap(mux))
//	}
//
// What a scrape shows needs no more than that. Beyond it: [Metrics.SLO] (objectives and their burn rates),
// [Metrics.Security] (one stream of security events), [NewLogHandler] and [Shipper] (logs of all servers in one place),
// [Uniques] and [Retention] (users), [Metrics.Rules] and [Metrics.Grafana] (alerts and a dashboard for those who run
// Prometheus and Grafana).
//
// Series are labelled by the route's pattern, never by what a client sends, so that no client can create any.
// Prometheus is imported by this package alone: the others offer tagged Stats structs, which [Collect] turns into
// series.
package metrics
