// Package cdn is an HTTP cache for the edge: what every user asks for is fetched from the origin once.
//
// Users are far away and static files are heavy: put a [Cache] near the users, around a handler or in front of an
// origin. It follows RFC 9110 and 9111, collapses concurrent misses into one fetch that all waiters stream from, serves
// ranges, keeps what is too large for memory in slices and serves it from disk, serves stale while it revalidates or
// when the origin fails, keeps memory and disk within budgets, and forgets what you purge.
//
//	package main
//
//	import (
//		"log"
//		"net/http"
//
//		"github.com/tierkit/tierkit/cdn"
//	)
//
//	func main() {
//		c, err := cdn.New(cdn.Options{MaxBytes: 256 << 20})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer c.Close()
//		edge, err := c.Proxy("http://origin.internal:8080", cdn.ProxyOptions{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		log.Fatal(http.ListenAndServe(":80", edge))
//	}
//
// Purges reach a fleet of edges over NATS with package cdn/natspurge, or through any [Purger]. When the edge itself
// fails, [Fallback] lets Go clients and [FallbackScript] lets browsers go to the origin. Resizing images is out of
// scope.
package cdn
