// Package dashboard serves one live page of a service: topology, charts, routes, objectives, events, logs. It needs no
// asset from elsewhere and no database, and shows what a metrics.Metrics observes beside what the application adds.
//
//	package main
//
//	import (
//		"context"
//		"log"
//		"net/http"
//
//		"github.com/tierkit/tierkit/metrics"
//		"github.com/tierkit/tierkit/metrics/dashboard"
//	)
//
//	func main() {
//		m, err := metrics.New(metrics.Options{Namespace: "shop"})
//		if err != nil {
//			log.Fatal(err)
//		}
//		d, err := dashboard.New(m, dashboard.Options{Title: "Shop"})
//		if err != nil {
//			log.Fatal(err)
//		}
//		go d.Run(context.Background()) // fills the charts
//		log.Fatal(http.ListenAndServe("127.0.0.1:9090", d))
//	}
//
// The page is open to this machine only, unless [Options].Authorize says otherwise.
package dashboard
