// Package dashboard serves one live page of a service: topology, charts, routes, objectives, events, logs. It needs no
// asset from elsewhere and no database, and shows what a metrics.Metrics observes beside what the application adds.
//
//	d, _ := dashboard.New(m, dashboard.Options{Title: "Shop"})
//	go d.Run(ctx) // fills the charts
//	http.ListenAndServe("127.0.0.1:9090", d)
package dashboard
