// Package lb spreads requests over several servers, and keeps serving when some of them die.
//
// One web server is not enough, or it dies: put a [Balancer] in front of several. It picks a healthy backend for each
// request, checks backends actively and by what it sees passing, sends a failed request to another host when that is
// safe, and lets backends come, drain and go while it serves.
//
//	package main
//
//	import (
//		"log"
//		"net/http"
//
//		"github.com/tierkit/tierkit/lb"
//		"github.com/tierkit/tierkit/lb/probe"
//	)
//
//	func main() {
//		b, err := lb.New([]lb.Endpoint{
//			{Addr: "10.0.0.1:8080"},
//			{Addr: "10.0.0.2:8080", Weight: 2},
//		}, lb.Options{
//			Health: lb.Health{Probe: probe.HTTP("/healthz")},
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer b.Close()
//		proxy, err := b.Handler(lb.ProxyOptions{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		log.Fatal(http.ListenAndServe(":80", proxy))
//	}
//
// One core is used in three ways: [Balancer.Handler] is a reverse proxy with an HTTP/1 connection pool of its own,
// [Balancer.RoundTripper] balances the requests of a Go client, and package lb/tcp forwards connections. All of them
// call [Balancer.Pick], which is open to other uses too.
//
// For a tier that only balances, package lb/front is the same proxy without net/http in the way of common requests, at
// less than half of the CPU time. Handler is the right choice everywhere else: with middlewares, with TLS in this
// process.
//
// Which policy? [PowerOfTwo], the default, does well where backends are alike; policy.PeakEWMA where some are slow;
// [Prequal] where they are many and noisy and can report their load; policy.ConsistentHash where a backend remembers
// what it served. The simulation in this package's tests compares them (go test -run Simulation -v). Against a slow
// tail, turn on [Hedge]; against overload, [Adaptive].
//
// A process that only balances keeps next to nothing in memory, so Go would collect its garbage, most of it net/http's,
// after every four megabytes, many times a second. Handler therefore sets aside Options.HeapReserve, memory that is
// never touched: the process grows by up to that much garbage, and Handler's 99th percentile at half load falls by a
// third. Setting GOGC as well gains nothing more. Front makes no garbage and needs none of this.
//
// Everything is safe for concurrent use. The path of a request takes no lock that other requests take: configuration
// and health stand in an immutable snapshot that changes are swapped into.
package lb
