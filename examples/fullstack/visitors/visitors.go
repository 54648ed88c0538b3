// Package visitors is a simulated population of the site: people in both regions who come at their time of the day, read
// what is popular, log in, like, comment and upload. They come through the front door, as package client does: names, edge,
// balancer. They need a small share of one processor.
package visitors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/metrics"
)

// Day is how long a day of the population lasts: its rhythm is compressed, so that it can be watched.
const Day = 4 * time.Minute

// Place is where people live.
type Place struct {
	Region    string       // the nearest data center
	Addresses []netip.Addr // of real clients there
	Noon      float64      // when it is noon there, as a share of the day
}

// Options describe a population.
type Options struct {
	// Count is how many are on the site or about to come back to it.
	Count   int
	Network *client.Network
	Places  []Place
	// Chapters are the paths of the articles, the most popular first.
	Chapters []string
	// Seed makes the same people come again. Zero means 1.
	Seed uint64
}

// Stats are what the population did so far.
type Stats struct {
	Requests  uint64 `metric:"visitor_requests_total,counter,Requests of the simulated visitors"`
	Errors    uint64 `metric:"visitor_errors_total,counter,Requests of the simulated visitors that failed"`
	Views     uint64 `metric:"visitor_views_total,counter,Views of the simulated visitors that were acknowledged"`
	Writes    uint64 `metric:"visitor_writes_total,counter,Writes of the simulated visitors that were acknowledged"`
	LastError string
	LastAt    time.Time
	Took      metrics.HistogramSnapshot // of requests, with distance and repetitions
}

// Crowd is how the visitors behave.
type Crowd struct {
	Factor int  // how many times as many requests as usual; at least 1
	Star   bool // everybody reads and likes one chapter
}

// Population is a population. Its methods are safe for concurrent use.
type Population struct {
	o                               Options
	requests, errors, views, writes atomic.Uint64
	took                            metrics.Histogram

	mu     sync.Mutex // guards what follows
	crowd  Crowd
	last   string
	lastAt time.Time
}

// New returns a population that Run brings to life.
func New(o Options) (*Population, error) {
	switch {
	case o.Count < 0:
		return nil, fmt.Errorf("visitors: Options.Count is %d, must not be negative", o.Count)
	case o.Network == nil:
		return nil, errors.New("visitors: Options.Network is nil")
	case len(o.Chapters) == 0:
		return nil, errors.New("visitors: Options.Chapters is empty")
	case len(o.Places) == 0:
		return nil, errors.New("visitors: Options.Places is empty")
	}
	for _, p := range o.Places {
		if len(p.Addresses) == 0 {
			return nil, fmt.Errorf("visitors: Options.Places: no addresses near %s", p.Region)
		}
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	return &Population{o: o, crowd: Crowd{Factor: 1}}, nil
}

// Stats returns what the population did so far.
func (p *Population) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{p.requests.Load(), p.errors.Load(), p.views.Load(), p.writes.Load(), p.last, p.lastAt,
		p.took.Snapshot()}
}

// Crowd returns how the visitors behave now.
func (p *Population) Crowd() Crowd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crowd
}

// SetCrowd changes how the visitors behave, within some seconds.
func (p *Population) SetCrowd(c Crowd) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Factor = max(c.Factor, 1)
	p.crowd = c
}

// Run lets the people come and go until ctx ends, and returns when all have gone.
func (p *Population) Run(ctx context.Context) {
	start := time.Now()
	var wg sync.WaitGroup
	for i := range p.o.Count {
		r := rand.New(rand.NewPCG(p.o.Seed, uint64(i)))
		place := p.o.Places[i%len(p.o.Places)]
		wg.Go(func() {
			// They do not come all at once, and most of them come in the first seconds.
			_ = backoff.Sleep(ctx, time.Duration(r.Float64()*3*float64(time.Second)))
			for n := 0; ctx.Err() == nil; n++ {
				addr := place.Addresses[r.IntN(len(place.Addresses))]
				v := &visit{p: p, r: r, c: p.o.Network.Client(addr, place.Region), seen: map[string]bool{},
					name: fmt.Sprintf("%s-%d-%d", names[r.IntN(len(names))], i, n)}
				v.stay(ctx)
				_ = backoff.Sleep(ctx, pause(r, 4*time.Second,
					activity(time.Since(start), place.Noon)*float64(p.Crowd().Factor)))
			}
		})
	}
	wg.Wait()
	p.o.Network.Close()
}

// activity is how busy a place is: 1 at noon, a quarter at midnight.
func activity(since time.Duration, noon float64) float64 {
	return 0.625 + 0.375*math.Cos(2*math.Pi*(since.Seconds()/Day.Seconds()-noon))
}

// pause is exponential with the given mean, longer when little is going on, at most five times the mean.
func pause(r *rand.Rand, mean time.Duration, activity float64) time.Duration {
	return time.Duration(min(r.ExpFloat64(), 5) * float64(mean) / activity)
}

// zipf picks one of n with probability proportional to 1/(rank+1).
func zipf(r *rand.Rand, n int) int {
	sum := 0.0
	for k := range n {
		sum += 1 / float64(k+1)
	}
	x := r.Float64() * sum
	for k := range n {
		if x -= 1 / float64(k+1); x < 0 {
			return k
		}
	}
	return n - 1
}

func (p *Population) count(what string, r client.Response, err error, want int) bool {
	p.requests.Add(1)
	p.took.Observe(r.Took)
	if err == nil && r.Status == want {
		return true
	}
	if err == nil {
		err = fmt.Errorf("status %d", r.Status)
	}
	p.errors.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.lastAt = what+": "+err.Error(), time.Now()
	return false
}
