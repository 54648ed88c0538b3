package lb_test

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/limit"
	"github.com/tierkit/tierkit/lb/policy"
)

// The simulation: 20 backends of 4 workers, 4 balancers that know nothing of each other, Poisson arrivals at 70 % of
// what the backends can do when all are well, exponential service times of 10 ms. Balancers and policies are the
// package's own, in virtual time (a synctest bubble in which one goroutine sleeps from event to event); random numbers
// have seeds, so a run is always the same.
//
//	go test -run Simulation -v ./lb
const (
	simBackends  = 20
	simBalancers = 4
	simWorkers   = 1
	simService   = 10 * time.Millisecond
	simLoad      = 0.7
)

// scenario says how much slower than it should be a backend is, and whether it fails at once.
type scenario struct {
	name string
	slow func(backend int, now time.Duration) float64
	fail func(backend int) bool
}

func scenarios() []scenario {
	even := func(int, time.Duration) float64 { return 1 }
	never := func(int) bool { return false }
	return []scenario{
		{"all alike", even, never},
		{"one 5x slower", func(b int, _ time.Duration) float64 {
			if b == 7 {
				return 5
			}
			return 1
		}, never},
		// a neighbor takes two thirds of one machine for half a second, then of another
		{"antagonist", func(b int, now time.Duration) float64 {
			if int(now/(500*time.Millisecond))*7%simBackends == b {
				return 3
			}
			return 1
		}, never},
		{"one fails fast", even, func(b int) bool { return b == 7 }},
	}
}

// simBackend is a queue before its workers.
type simBackend struct {
	busy  int
	queue []simRequest
	meter limit.LoadMeter // counts for all balancers, as it does in a server
}

type simRequest struct {
	lease   lb.Pick
	start   time.Time
	work    float64
	running limit.Running
}

type simEvent struct {
	at time.Duration
	n  int // order among those of one instant
	do func()
}

type simEvents []simEvent

func (e simEvents) Len() int { return len(e) }
func (e simEvents) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e simEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *simEvents) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *simEvents) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

type simulation struct {
	scenario
	began     time.Time
	events    simEvents
	n         int
	backends  [simBackends]simBackend
	latencies []time.Duration
	requests  [simBackends]int
	measure   time.Duration // from then on
}

func (s *simulation) now() time.Duration { return time.Since(s.began) }

func (s *simulation) after(d time.Duration, do func()) {
	s.n++
	heap.Push(&s.events, simEvent{s.now() + d, s.n, do})
}

func backendIndex(b *lb.Backend) int { return int(b.ID()[1]-'0')*10 + int(b.ID()[2]-'0') }

func (s *simulation) arrive(r simRequest) {
	i := backendIndex(r.lease.Backend())
	if s.now() >= s.measure {
		s.requests[i]++
	}
	if s.fail(i) {
		s.after(100*time.Microsecond, func() { r.lease.Done(lb.Result{Err: errors.New("boom")}) })
		return
	}
	b := &s.backends[i]
	r.running = b.meter.Begin()
	if b.busy == simWorkers {
		b.queue = append(b.queue, r)
		return
	}
	b.busy++
	s.serve(i, r)
}

func (s *simulation) serve(i int, r simRequest) {
	s.after(time.Duration(r.work*s.slow(i, s.now())*float64(simService)), func() {
		r.running.End(false)
		r.lease.Done(lb.Result{Status: 200})
		if s.now() >= s.measure {
			s.latencies = append(s.latencies, time.Since(r.start))
		}
		b := &s.backends[i]
		if len(b.queue) == 0 {
			b.busy--
			return
		}
		next := b.queue[0]
		b.queue = b.queue[1:]
		s.serve(i, next)
	})
}

// oracle knows how fast each backend is at the moment, and every request on it, whichever balancer sent it: it takes
// the one that is expected to be done first, and never one that fails.
type oracle struct{ s *simulation }

func (o oracle) Picker(bs []*lb.Backend) lb.Picker { return oracleOf{o.s, bs} }

type oracleOf struct {
	s  *simulation
	bs []*lb.Backend
}

func (o oracleOf) Pick(lb.Key) *lb.Backend {
	var best *lb.Backend
	low := math.Inf(1)
	for _, b := range o.bs {
		i := backendIndex(b)
		if o.s.fail(i) {
			continue
		}
		wait := 0.0
		if sb := &o.s.backends[i]; sb.busy == simWorkers {
			wait = float64(len(sb.queue)+1) / simWorkers
		}
		if cost := (wait + 1) * o.s.slow(i, o.s.now()); cost < low {
			best, low = b, cost
		}
	}
	return best
}

// seeded gives a policy a source of random numbers of its own.
func seeded(p lb.Policy, seed uint64) lb.Policy {
	if p, ok := p.(interface {
		WithSource(lottery.Source) lb.Policy
	}); ok {
		return p.WithSource(lottery.Seeded(seed, 99))
	}
	return p
}

// byLoad is Prequal with probes that ask the simulated backends.
type byLoad struct{ lb.Policy }

type simResult struct {
	p50, p99 time.Duration
	share    float64 // of backend 7
}

func simulate(t *testing.T, sc scenario, p lb.Policy, seed uint64, length time.Duration) (res simResult) {
	synctest.Test(t, func(t *testing.T) {
		// latencies are stamped in milliseconds of the process's clock
		time.Sleep(time.Millisecond - time.Since(lb.Began)%time.Millisecond)
		s := &simulation{scenario: sc, began: time.Now(), measure: length / 4}
		rnd := rand.New(rand.NewPCG(seed, 1))
		defer time.Sleep(time.Second) // until the last probes have returned
		perBalancer := simLoad * simBackends * simWorkers / simService.Seconds() / simBalancers
		for i := range simBalancers {
			policy := p
			if _, ok := p.(byLoad); ok {
				policy = lb.Prequal(lb.PrequalOptions{
					Probe: func(_ context.Context, t lb.Target) (int, time.Duration, error) {
						time.Sleep(time.Duration(200+t.Addr[len(t.Addr)-4]) * time.Microsecond) // there
						l := s.backends[int(t.ID[1]-'0')*10+int(t.ID[2]-'0')].meter.Load()
						time.Sleep(200 * time.Microsecond) // and back
						return l.InFlight, l.Latency, nil
					}})
			}
			policy = seeded(policy, seed*100+uint64(i))
			if p == nil {
				policy = oracle{s}
			}
			b, err := lb.New(lbtest.Endpoints(simBackends),
				lb.Options{Policy: policy, Outlier: lb.Outlier{Disabled: true}})
			require.NoError(t, err)
			defer b.Close()
			var arrival func()
			arrival = func() {
				s.after(time.Duration(rnd.ExpFloat64()/perBalancer*float64(time.Second)), arrival)
				l, err := b.Pick(context.Background(), lb.Key{})
				if err != nil {
					t.Fatal(err)
				}
				s.arrive(simRequest{lease: l, start: time.Now(), work: rnd.ExpFloat64()})
			}
			s.after(0, arrival)
		}
		for s.now() < length {
			e := heap.Pop(&s.events).(simEvent)
			time.Sleep(e.at - s.now())
			e.do()
		}
		slices.Sort(s.latencies)
		all := 0
		for _, n := range s.requests {
			all += n
		}
		res = simResult{s.latencies[len(s.latencies)/2], s.latencies[len(s.latencies)*99/100],
			float64(s.requests[7]) / float64(all)}
	})
	return res
}

func simulated() []struct {
	name string
	p    lb.Policy
} {
	return []struct {
		name string
		p    lb.Policy
	}{
		{"oracle", nil}, {"round robin", policy.RoundRobin()}, {"random", policy.Random()},
		{"least connections", policy.LeastConnections()},
		{"two choices", lb.PowerOfTwo()}, {"peak EWMA", policy.PeakEWMA(0)}, {"Prequal", byLoad{}},
	}
}

// Each policy against the oracle, in each scenario.
func TestSimulation(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for seconds")
	}
	t.Parallel()
	length, seeds := 8*time.Second, uint64(exhaustive.N(t, 1, 3))
	if race.Enabled {
		seeds = 1
	}
	var table strings.Builder
	times := map[[2]string]float64{} // p99 over the oracle's
	share := map[string]float64{}
	fmt.Fprintf(&table, "p99 in ms (times the oracle's), median of %d runs of %v\n%-18s", seeds, length, "")
	for _, sc := range scenarios() {
		fmt.Fprintf(&table, "%20s", sc.name)
	}
	fmt.Fprintf(&table, "%14s\n", "share of it")
	best := map[string]float64{}
	for _, c := range simulated() {
		fmt.Fprintf(&table, "%-18s", c.name)
		for _, sc := range scenarios() {
			var p99s, shares []float64
			for seed := range seeds {
				r := simulate(t, sc, c.p, seed+1, length)
				p99s, shares = append(p99s, r.p99.Seconds()*1000), append(shares, r.share)
			}
			slices.Sort(p99s)
			slices.Sort(shares)
			p99 := p99s[len(p99s)/2]
			if c.p == nil {
				best[sc.name] = p99
			}
			times[[2]string{c.name, sc.name}] = p99 / best[sc.name]
			fmt.Fprintf(&table, "%12.1f (%4.2fx)", p99, p99/best[sc.name])
			share[c.name] = shares[len(shares)-1]
		}
		fmt.Fprintf(&table, "%12.2f %%\n", 100*share[c.name])
	}
	t.Log("\n" + table.String())
	for _, c := range []struct {
		policy, scenario string
		most             float64
	}{
		{"peak EWMA", "all alike", 2.2}, {"peak EWMA", "one 5x slower", 2.2}, {"peak EWMA", "one fails fast", 2.2},
		{"Prequal", "all alike", 2.2}, {"Prequal", "one 5x slower", 2.2}, {"Prequal", "one fails fast", 2.2},
		{"Prequal", "antagonist", 2.2},
		{"two choices", "all alike", 2.2}, {"least connections", "all alike", 2.2},
		{"peak EWMA", "antagonist", 3}, {"two choices", "antagonist", 3.3}, {"least connections", "antagonist", 2.5},
	} {
		require.LessOrEqual(t, times[[2]string{c.policy, c.scenario}], c.most, "%s, %s", c.policy, c.scenario)
	}
	for policy, s := range share {
		most := 0.005 // a tenth of a fair share
		if policy == "round robin" || policy == "random" {
			most = 0.055 // they do not look
		}
		require.LessOrEqual(t, s, most, "%s: what fails fast gains no traffic", policy)
	}
}
