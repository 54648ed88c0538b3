// Package limit keeps a server from more than it can carry, with or without a balancer before it.
//
// [Limiter] holds each client to a rate. [LoadMeter] measures how busy the server is, for balancers with the policy
// Prequal of package lb.
//
//	l, err := limit.New(limit.Options{PerSecond: 10, Burst: 20})
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(http.ListenAndServe(":8080", l.Handler(service)))
package limit
