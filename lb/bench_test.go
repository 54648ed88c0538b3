package lb

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// The cost of choosing among 100 backends: go test -run xxx -bench Pick -cpu 1,2 ./lb
//
//	idle     the choice alone, no requests in flight
//	busy     the choice alone, 400 requests in flight on backends whose weights differ
//	tracked  the choice, the request counted on the backend and off it again, in flight as in busy: what an index costs to
//	         keep is in it
//	lease    Pick and Done, with clock, budget, latency and outlier detection
//
// limit/counter is one atomic addition to a number that all processors share.
func BenchmarkPick(b *testing.B) {
	var shared atomic.Uint64
	b.Run("limit/counter", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				shared.Add(1)
			}
		})
	})
	for name, p := range policies() {
		keyed := func(b *testing.B, f func(Key)) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				n := rand.Uint64()
				for pb.Next() {
					n += 0x9e3779b97f4a7c15
					f(Key{Hash: n, Keyed: true})
				}
			})
		}
		busy := func(b *testing.B) *Balancer {
			es := endpoints(100)
			for i := range es {
				es[i].Weight = float64(1 + i%3)
			}
			bal := newBalancer(b, es, Options{Policy: p})
			for range 400 {
				l, err := bal.Pick(context.Background(), Key{Hash: rand.Uint64(), Keyed: true})
				if err != nil {
					b.Fatal(err)
				}
				l.b.latency.observe(rand.Float64()/100, stamp(), fadeRate(defaultDecay))
			}
			return bal
		}
		b.Run("idle/"+name, func(b *testing.B) {
			picker := newBalancer(b, endpoints(100), Options{Policy: p}).snap.Load().picker
			keyed(b, func(k Key) { picker.Pick(k) })
		})
		b.Run("busy/"+name, func(b *testing.B) {
			picker := busy(b).snap.Load().picker
			keyed(b, func(k Key) { picker.Pick(k) })
		})
		b.Run("tracked/"+name, func(b *testing.B) {
			picker := busy(b).snap.Load().picker
			keyed(b, func(k Key) {
				be := picker.Pick(k)
				be.acquire(0)
				be.ended()
			})
		})
		b.Run("lease/"+name, func(b *testing.B) {
			bal := busy(b)
			keyed(b, func(k Key) {
				l, err := bal.Pick(context.Background(), k)
				if err != nil {
					b.Fatal(err)
				}
				l.Done(Result{Latency: time.Millisecond})
			})
		})
	}
}

// A pick from 16 answers at hand; the probes that it asks for are not in it.
func BenchmarkPrequal(b *testing.B) {
	bal := newBalancer(b, endpoints(100), Options{Policy: policies()["prequal"]})
	r := bal.prober
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if len(r.pool) < 16 {
			b.StopTimer()
			for len(r.pool) < 16 {
				i++
				r.take(r.bs[i%100], Load{i % 7, time.Duration(i%13) * time.Millisecond}, time.Since(began))
			}
			b.StartTimer()
		}
		r.mu.Lock()
		r.choose(time.Since(began))
		r.mu.Unlock()
	}
}
