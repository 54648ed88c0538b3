// Package front is an HTTP/1.1 server for a tier that only balances: the reverse proxy of package lb without net/http
// in the way of common requests, at less than half of the CPU time.
//
//	b, err := lb.New([]lb.Endpoint{{Addr: "10.0.0.1:8080"}, {Addr: "10.0.0.2:8080"}}, lb.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	s, err := front.New(b, front.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	l, err := net.Listen("tcp", ":80")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(s.Serve(l))
//
// Use lb.Handler where other handlers are around the balancer, or where TLS ends in this process.
package front
