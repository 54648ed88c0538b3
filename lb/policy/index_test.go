package policy

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/lb"
)

// drawEndpoints are up to 40 endpoints: several groups of the index.
func drawEndpoints(t *rapid.T) []lb.Endpoint {
	es := endpoints(rapid.IntRange(1, 40).Draw(t, "backends"))
	for i := range es {
		es[i].Weight = rapid.SampledFrom([]float64{1, 1, 2, 3, 0.5, 10}).Draw(t, "weight")
		es[i].MaxConns = rapid.SampledFrom([]int{0, 0, 0, 3}).Draw(t, "limit")
	}
	return es
}

// drive takes and ends requests at random and calls check with each pick, before the request is counted.
func drive(t *rapid.T, b *lb.Balancer, p *spy, check func(picked *lb.Backend, k lb.Key)) {
	var held []lb.Pick
	for range rapid.IntRange(1, 120).Draw(t, "steps") {
		switch {
		case len(held) > 0 && rapid.IntRange(0, 2).Draw(t, "end") == 0:
			i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
			held[i].Done(lb.Result{Latency: time.Millisecond})
			held = append(held[:i], held[i+1:]...)
		case rapid.IntRange(0, 30).Draw(t, "rebuild") == 0: // the next picker takes over what is in flight
			rebuild(t, b)
		default:
			k := lb.Key{Hash: rapid.Uint64Range(0, 20).Draw(t, "key"), Keyed: true}
			check(p.picker().Pick(k), k)
			if l, err := b.Pick(context.Background(), k); err == nil {
				held = append(held, l)
			}
		}
	}
}

func TestLeastConnectionsAgreesWithAScan(t *testing.T) {
	for name, weighted := range map[string]bool{"plain": false, "weighted": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				p := &spy{Policy: leastConnections{weighted: weighted}}
				b, err := lb.New(drawEndpoints(t),
					lb.Options{Policy: p, MaxQueue: -1, Outlier: lb.Outlier{Disabled: true}})
				require.NoError(t, err)
				defer b.Close()
				load := func(be *lb.Backend) float64 {
					n := be.InFlight()
					switch limit := be.Endpoint().MaxConns; {
					case limit > 0 && n >= limit:
						return math.Inf(1)
					case n == 0:
						return 0
					case !weighted:
						return float64(n + 1)
					}
					return float64(float32(n+1) * float32(1/be.Weight()))
				}
				drive(t, b, p, func(picked *lb.Backend, _ lb.Key) {
					for _, be := range b.Backends() {
						if load(be) < load(picked) {
							t.Fatalf("picked %s with load %v, but %s has %v", picked.ID(), load(picked), be.ID(),
								load(be))
						}
					}
				})
			})
		})
	}
}

func TestConsistentHashAgreesWithAScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := drawEndpoints(t)
		for i := range es {
			es[i].MaxConns = 0
		}
		bound := rapid.SampledFrom([]float64{1, 1.1, 1.25, 2}).Draw(t, "bound")
		p, freely := &spy{Policy: ConsistentHash(bound)}, &spy{Policy: ConsistentHash(-1)}
		b, err := lb.New(es, lb.Options{Policy: p})
		require.NoError(t, err)
		defer b.Close()
		free, err := lb.New(es, lb.Options{Policy: freely})
		require.NoError(t, err)
		defer free.Close()
		drive(t, b, p, func(picked *lb.Backend, k lb.Key) {
			total, weight := 1, 0.0
			for _, be := range b.Backends() {
				total += be.InFlight()
				weight += be.Weight()
			}
			// slack: the bound in floating point, where it is a whole number
			within := func(be *lb.Backend, slack float64) bool {
				return float64(be.InFlight()+1) <= math.Ceil(bound*float64(total)*be.Weight()/weight*(1+slack))
			}
			room := func(be *lb.Backend) bool { return within(be, -1e-9) }
			owner := backend(b, freely.picker().Pick(k).ID())
			if room(owner) {
				require.Equal(t, owner.ID(), picked.ID(), "the owner has room")
				return
			}
			if !within(picked, 1e-9) {
				for _, be := range b.Backends() {
					if room(be) {
						t.Fatalf("%s is over the bound, but %s has room", picked.ID(), be.ID())
					}
				}
			}
			require.Equal(t, picked, p.picker().Pick(k), "the same key goes to the same place")
		})
	})
}

// Whatever happens at once, once it is quiet the indexes say what is so.
func TestIndexesAfterConcurrentLoad(t *testing.T) {
	for name, p := range map[string]lb.Policy{"least": WeightedLeastConnections(), "consistent": ConsistentHash(0)} {
		t.Run(name, func(t *testing.T) {
			es := endpoints(37)
			for i := range es {
				es[i].Weight = float64(1 + i%4)
			}
			sp := &spy{Policy: p}
			b := newBalancer(t, es, lb.Options{Policy: sp})
			var wg sync.WaitGroup
			var mu sync.Mutex
			var held []lb.Pick
			for w := range 8 {
				wg.Go(func() {
					var own []lb.Pick
					for i := range 2000 {
						l, err := b.Pick(context.Background(), lb.Key{Hash: uint64(i * w), Keyed: true})
						if err != nil {
							t.Error(err)
							return
						}
						if own = append(own, l); len(own) > 20 {
							own[i%20].Done(lb.Result{Latency: time.Millisecond})
							own = append(own[:i%20], own[i%20+1:]...)
						}
						if w == 0 && i%100 == 0 {
							rebuild(t, b)
						}
					}
					mu.Lock()
					held = append(held, own...)
					mu.Unlock()
				})
			}
			wg.Wait()
			check := func() {
				switch p := sp.picker().(type) {
				case *leastLoaded:
					for i, be := range b.Backends() {
						key := p.load(int(p.places[i]))
						require.Equal(t, key, p.leaf[p.places[i]].Load(), be.ID())
					}
					for g := range p.group {
						low, members := p.scan(g)
						w := p.group[g].Load()
						require.Equal(t, low<<32|members, w&^0xffff, "group %d", g)
					}
				case *ring:
					total := int64(0)
					for i, be := range p.bs {
						require.Equal(t, int64(be.InFlight()), p.loads[i].Load(), be.ID())
						total += int64(be.InFlight())
					}
					require.Equal(t, total, p.total.Load())
				}
			}
			check()
			for _, l := range held {
				l.Done(lb.Result{Latency: time.Millisecond})
			}
			check()
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

// With nothing in flight the weights alone decide.
func TestIdleBackendsShareByWeight(t *testing.T) {
	for _, name := range []string{"weighted-round-robin", "weighted-least-connections", "random", "power-of-two",
		"peak-ewma"} {
		es := endpoints(20)
		for i := range es {
			es[i].Weight = float64(1 + i%3)
		}
		b := newBalancer(t, es, lb.Options{Policy: policies()[name]})
		got, sum := map[string]float64{}, 0.0
		const n = 40000
		for range n {
			l, err := b.Pick(t.Context(), lb.Key{})
			require.NoError(t, err)
			got[l.Backend().ID()]++
			l.Done(lb.Result{Latency: time.Millisecond})
		}
		for _, e := range es {
			sum += e.Weight
		}
		for _, e := range es {
			require.InEpsilon(t, e.Weight/sum, got[e.ID]/n, 0.2, "%s %s", name, e.ID)
		}
	}
}

// Two pickers over the same backends, as a policy of the user's own may build them, are both kept up to date.
func TestPolicyOfTwoPickers(t *testing.T) {
	b := newBalancer(t, endpoints(5), lb.Options{Policy: twice{}})
	for i := range 50 {
		l, err := b.Pick(t.Context(), lb.Key{})
		require.NoError(t, err)
		require.Equal(t, i/5+1, l.Backend().InFlight(), fmt.Sprint("pick ", i))
	}
}

type twice struct{}

func (twice) Picker(bs []*lb.Backend) lb.Picker {
	return &alternate{p: [2]lb.Picker{LeastConnections().Picker(bs), LeastConnections().Picker(bs)}}
}

type alternate struct {
	p [2]lb.Picker
	n int
}

func (a *alternate) Pick(k lb.Key) *lb.Backend { a.n++; return a.p[a.n%2].Pick(k) }
