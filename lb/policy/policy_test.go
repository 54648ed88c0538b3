package policy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/lb"
)

func policies() map[string]lb.Policy {
	return map[string]lb.Policy{
		"round-robin": RoundRobin(), "weighted-round-robin": WeightedRoundRobin(),
		"least-connections":          LeastConnections(),
		"weighted-least-connections": WeightedLeastConnections(), "random": Random(), "power-of-two": lb.PowerOfTwo(),
		"peak-ewma": PeakEWMA(0), "source-hash": SourceHash(), "consistent-hash": ConsistentHash(0), "maglev": Maglev(),
		"rendezvous": Rendezvous(),
		// no backend answers
		"prequal": lb.Prequal(lb.PrequalOptions{Rate: 0.01,
			Probe: func(context.Context, lb.Target) (int, time.Duration, error) {
				return 0, 0, errors.New("does not say")
			}}),
	}
}

func TestEveryPolicySharesByWeight(t *testing.T) {
	for name, p := range policies() {
		t.Run(name, func(t *testing.T) {
			es := endpoints(4)
			weighted := name != "round-robin" && name != "least-connections"
			if weighted {
				es[0].Weight = 3
			}
			b := newBalancer(t, es, lb.Options{Policy: p})
			got := map[string]float64{}
			const n = 30000
			var held []lb.Pick
			for i := range n {
				l, err := b.Pick(t.Context(), lb.Key{Hash: lb.HashString(fmt.Sprint("key", i)), Keyed: true})
				require.NoError(t, err)
				got[l.Backend().ID()]++
				if held = append(held, l); len(held) == 200 { // a standing load, for the policies that look at it
					for _, l := range held {
						l.Done(lb.Result{Latency: time.Millisecond})
					}
					held = held[:0]
				}
			}
			for _, l := range held {
				l.Done(lb.Result{Latency: time.Millisecond})
			}
			for _, e := range es {
				want := 1.0 / 4
				if weighted {
					want = max(e.Weight, 1) / 6
				}
				require.InDelta(t, want, got[e.ID]/n, 0.06, "%s: %v", e.ID, got)
			}
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for name, p := range policies() {
		b := newBalancer(t, endpoints(100), lb.Options{Policy: p})
		n := uint64(0)
		allocs := testing.AllocsPerRun(200, func() {
			n++
			l, _ := b.Pick(context.Background(), lb.Key{Hash: n * 0x9e3779b97f4a7c15, Keyed: true})
			l.Done(lb.Result{Latency: time.Millisecond})
		})
		require.Zero(t, allocs, name)
	}
}

// The order that nginx gives for weights 5, 1, 1.
func TestSmoothOrder(t *testing.T) {
	es := endpoints(3)
	es[0].Weight = 5
	b := newBalancer(t, es, lb.Options{Policy: WeightedRoundRobin()})
	order := ""
	for range 14 {
		l, err := b.Pick(t.Context(), lb.Key{})
		require.NoError(t, err)
		order += l.Backend().ID()[2:]
		l.Done(lb.Result{})
	}
	require.Equal(t, "00102000010200", order)
}

// In every prefix of the order a backend's turns stay close to its share.
func TestSmoothPrefixes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ws := rapid.SliceOfN(rapid.Float64Range(0.1, 50), 1, 12).Draw(t, "weights")
		es, sum := endpoints(len(ws)), 0.0
		for i, w := range ws {
			es[i].Weight = w
			sum += w
		}
		b, err := lb.New(es, lb.Options{})
		require.NoError(t, err)
		defer b.Close()
		bs := b.Backends()
		got := map[*lb.Backend]float64{}
		order := smooth(bs)
		for i, be := range order {
			got[be]++
			for _, x := range bs {
				share := x.Weight() / sum * float64(i+1)
				if math.Abs(got[x]-share) > 2+float64(len(bs))/2 {
					t.Fatalf("after %d turns %s had %v, share %v", i+1, x.ID(), got[x], share)
				}
			}
		}
	})
}

func TestHashPoliciesAgreeAndMoveLittle(t *testing.T) {
	for name, p := range map[string][2]lb.Policy{
		"consistent-hash": {ConsistentHash(-1), ConsistentHash(-1)}, "maglev": {Maglev(), Maglev()},
		"rendezvous": {Rendezvous(), Rendezvous()},
	} {
		t.Run(name, func(t *testing.T) {
			es := endpoints(10)
			one := newBalancer(t, es, lb.Options{Policy: p[0]})
			two := newBalancer(t, es[4:], lb.Options{Policy: p[1]}) // learns of the others later, in another order
			es2 := append(append([]lb.Endpoint{}, es[7:]...), es[:7]...)
			require.NoError(t, two.Update(es2))
			pick := func(b *lb.Balancer, i int) string {
				l, err := b.Pick(t.Context(), lb.Key{Hash: lb.HashString(fmt.Sprint(i)), Keyed: true})
				require.NoError(t, err)
				l.Done(lb.Result{})
				return l.Backend().ID()
			}
			const n = 5000
			before := make([]string, n)
			for i := range n {
				before[i] = pick(one, i)
				require.Equal(t, before[i], pick(two, i))
			}
			require.NoError(t, one.Update(es[:9]))
			moved, orphans := 0, 0
			for i := range n {
				now := pick(one, i)
				if before[i] == "b09" {
					orphans++
				} else if now != before[i] {
					moved++
				}
			}
			require.InDelta(t, n/10, orphans, n/25)
			limit := 0
			if name == "maglev" {
				limit = n / 20
			}
			require.LessOrEqual(t, moved, limit, "only the keys of the one that left move")
		})
	}
}

func TestConsistentHashBoundsLoad(t *testing.T) {
	b := newBalancer(t, endpoints(10), lb.Options{Policy: ConsistentHash(1.25)})
	hot := lb.Key{Hash: lb.HashString("celebrity"), Keyed: true}
	for range 100 {
		_, err := b.Pick(t.Context(), hot)
		require.NoError(t, err)
	}
	for _, be := range b.Backends() {
		require.LessOrEqual(t, be.InFlight(), 13)
	}
}

// A host that fails fast is idle most of the time; it must not gain traffic by that.
func TestFastFailureDoesNotAttract(t *testing.T) {
	b := newBalancer(t, endpoints(10), lb.Options{Policy: PeakEWMA(0), Outlier: lb.Outlier{Disabled: true}})
	bad := 0
	const n = 20000
	for i := range n {
		l, err := b.Pick(t.Context(), lb.Key{})
		require.NoError(t, err)
		if l.Backend().ID() == "b03" {
			bad++
			l.Done(lb.Result{Err: fmt.Errorf("boom"), Latency: 100 * time.Microsecond})
		} else {
			l.Done(lb.Result{Status: 200, Latency: time.Duration(5+i%10) * time.Millisecond})
		}
	}
	require.Less(t, float64(bad)/n, 0.05, "half of its fair share")
}
