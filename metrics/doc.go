// Package metrics shows what every tier of a service does: requests, errors and durations of HTTP, the state of
// databases, caches and queues, and health endpoints, as series for Prometheus. Without it nobody knows what is going
// on until a user calls.
//
//	package main
//
//	import (
//		"log"
//		"net/http"
//
//		"github.com/tierkit/tierkit/metrics"
//	)
//
//	func main() {
//		m, err := metrics.New(metrics.Options{Namespace: "shop"})
//		if err != nil {
//			log.Fatal(err)
//		}
//		web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
//		if err != nil {
//			log.Fatal(err)
//		}
//		mux := http.NewServeMux()
//		mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
//		go http.ListenAndServe("127.0.0.1:9090", m.Handler()) // what Prometheus scrapes
//		log.Fatal(http.ListenAndServe(":8080", web.Wrap(mux)))
//	}
//
// The packages below this one register themselves with a [Metrics], which knows none of them: dashboard (a live page),
// host (the machine), slo (objectives, burn rates, alerts, rules for Prometheus, a dashboard for Grafana), security
// (security events), audience (unique users, retention, revenue). Packages trace (ids of requests) and logs (search,
// redaction, shipping) stand alone, and prombridge and otelbridge connect with Prometheus's own client and with
// OpenTelemetry.
//
// Other packages of this module offer tagged Stats structs, which [Collect] turns into series, and so need not import
// this one. Series are labeled by the route's pattern, never by what a client sends, so that no client can create any.
package metrics
