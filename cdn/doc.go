// Package cdn is an HTTP cache for the edge: what every user asks for is fetched from the origin once.
//
// Users are far away and static files are heavy: put a [Cache] near the users, around a handler or in front of an
// origin. It follows RFC 9111, collapses concurrent misses into one fetch that all waiters stream from, serves ranges, serves stale
// while it revalidates or when the origin fails, keeps memory and disk within budgets, and forgets what you purge.
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
package cdn
