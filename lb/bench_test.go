package lb_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
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
		keyed := func(b *testing.B, f func(lb.Key)) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				n := rand.Uint64()
				for pb.Next() {
					n += 0x9e3779b97f4a7c15
					f(lb.Key{Hash: n, Keyed: true})
				}
			})
		}
		busy := func(b *testing.B) *lb.Balancer {
			es := lbtest.Endpoints(100)
			for i := range es {
				es[i].Weight = float64(1 + i%3)
			}
			bal := lbtest.New(b, es, lb.Options{Policy: p})
			for range 400 {
				l, err := bal.Pick(context.Background(), lb.Key{Hash: rand.Uint64(), Keyed: true})
				if err != nil {
					b.Fatal(err)
				}
				l.Backend().ObserveLatency(rand.Float64() / 100)
			}
			return bal
		}
		b.Run("idle/"+name, func(b *testing.B) {
			picker := lbtest.New(b, lbtest.Endpoints(100), lb.Options{Policy: p}).CurrentPicker()
			keyed(b, func(k lb.Key) { picker.Pick(k) })
		})
		b.Run("busy/"+name, func(b *testing.B) {
			picker := busy(b).CurrentPicker()
			keyed(b, func(k lb.Key) { picker.Pick(k) })
		})
		b.Run("tracked/"+name, func(b *testing.B) {
			picker := busy(b).CurrentPicker()
			keyed(b, func(k lb.Key) {
				be := picker.Pick(k)
				be.Acquire()
				be.Ended()
			})
		})
		b.Run("lease/"+name, func(b *testing.B) {
			bal := busy(b)
			keyed(b, func(k lb.Key) {
				l, err := bal.Pick(context.Background(), k)
				if err != nil {
					b.Fatal(err)
				}
				l.Done(lb.Result{Latency: time.Millisecond})
			})
		})
	}
}

func policies() map[string]lb.Policy {
	return map[string]lb.Policy{
		"round-robin": policy.RoundRobin(), "weighted-round-robin": policy.WeightedRoundRobin(),
		"least-connections":          policy.LeastConnections(),
		"weighted-least-connections": policy.WeightedLeastConnections(), "random": policy.Random(),
		"power-of-two": lb.PowerOfTwo(), "peak-ewma": policy.PeakEWMA(0), "source-hash": policy.SourceHash(),
		"consistent-hash": policy.ConsistentHash(0), "maglev": policy.Maglev(), "rendezvous": policy.Rendezvous(),
		// no backend answers
		"prequal": lb.Prequal(lb.PrequalOptions{Rate: 0.01,
			Probe: func(context.Context, lb.Target) (int, time.Duration, error) {
				return 0, 0, errors.New("does not say")
			}}),
	}
}
