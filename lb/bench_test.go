package lb

import (
	"context"
	"testing"
	"time"
)

// The cost of choosing among 100 backends, with the bookkeeping of a request: go test -bench Pick ./lb
func BenchmarkPick(b *testing.B) {
	for name, p := range policies() {
		b.Run(name+"/tierkit", func(b *testing.B) {
			bal := newBalancer(b, endpoints(100), Options{Policy: p})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				n := uint64(time.Now().UnixNano())
				for pb.Next() {
					n += 0x9e3779b97f4a7c15
					l, err := bal.Pick(context.Background(), Key{Hash: n, Keyed: true})
					if err != nil {
						b.Fatal(err)
					}
					l.Done(Result{Latency: time.Millisecond})
				}
			})
		})
		b.Run(name+"/pick-only", func(b *testing.B) {
			bal := newBalancer(b, endpoints(100), Options{Policy: p})
			picker := bal.snap.Load().picker
			b.RunParallel(func(pb *testing.PB) {
				n := uint64(time.Now().UnixNano())
				for pb.Next() {
					n += 0x9e3779b97f4a7c15
					picker.Pick(Key{Hash: n, Keyed: true})
				}
			})
		})
	}
}
