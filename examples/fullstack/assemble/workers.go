package assemble

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/autoscale"
	"github.com/tierkit/tierkit/examples/fullstack/site"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/queue"
)

// lease is how long a worker has a message: short, so that a worker that died is noticed within the drill.
const lease = 2 * time.Second

// workerPool is the workers of one center for one topic.
type workerPool struct {
	topic string
	group *queue.Group
	pool  *queue.Pool
	scale *autoscale.Controller
	dead  atomic.Bool
}

// startWorkers starts a pool per topic and lets the backlog size it.
func (c *center) startWorkers(ctx context.Context) error {
	wk := &site.Worker{Shards: c.s.data.clusters[c.name], Log: c.s.log, AckFirst: c.s.o.Mutant == AckBeforeCount,
		Counting: c.counting}
	for topic, mux := range map[string]*queue.Mux{site.TopicViews: wk.Views(), site.TopicPhotos: wk.Photos()} {
		g, err := c.s.queue.Group(ctx, topic, "site",
			queue.GroupOptions{Lease: lease, MaxDeliveries: 50,
				Backoff: queue.Backoff{Base: 100 * time.Millisecond, Max: time.Second}})
		if err != nil {
			return err
		}
		p := &workerPool{topic: topic, group: g}
		if p.pool, err = queue.NewPool(g, mux, queue.PoolOptions{Workers: 1, Timeout: 10 * time.Second}); err != nil {
			return err
		}
		c.pools = append(c.pools, p)
		backlog, rate := 40.0, 150.0 // what one worker should have waiting, and do per second
		if topic == site.TopicPhotos {
			backlog, rate = 2, 20
		}
		var done int64
		at := time.Now()
		p.scale, err = autoscale.New(autoscale.Funcs{
			Get: func(context.Context) (int, error) {
				if p.dead.Load() {
					return 0, fmt.Errorf("the workers of %s are dead", c.name)
				}
				return p.pool.Workers(), nil
			},
			Set: func(_ context.Context, n int) error { p.pool.SetWorkers(n); return nil },
		}, autoscale.Policy{Min: 1, Max: c.s.o.Workers,
			Metrics: []autoscale.Metric{{Name: "backlog", Target: backlog}, {Name: "age", Target: 1},
				{Name: "rate", Target: rate}},
			Up: autoscale.Direction{Rates: []autoscale.Rate{
				{Count: 4, Percent: 100, Period: 500 * time.Millisecond}}},
			Down: autoscale.Direction{Stabilize: 3 * time.Second}},
			func(ctx context.Context) ([]autoscale.Sample, error) {
				l, err := p.pool.Lag(ctx)
				n, dt := p.pool.Stats().Succeeded, time.Since(at).Seconds()
				worked := float64(n-done) / max(dt, 1e-3)
				done, at = n, time.Now()
				return []autoscale.Sample{{Metric: "backlog", Value: float64(l.Ready+l.InFlight) / 2},
					{Metric: "age", Value: l.OldestAge.Seconds()}, {Metric: "rate", Value: worked}}, err
			}, autoscale.Options{Interval: 250 * time.Millisecond, OnDecision: c.scaled("workers for " + topic)})
		if err != nil {
			return err
		}
		c.s.wg.Go(func() { p.scale.Run(c.s.ctx) })
	}
	return nil
}

// kill ends the workers of a center as a power cut would; revive starts new ones.
func (p *workerPool) kill() {
	p.dead.Store(true)
	p.pool.SetWorkers(0)
	p.pool.Kill(1 << 20)
}

func (p *workerPool) revive() {
	p.pool.SetWorkers(1)
	p.dead.Store(false)
}

// counting is called by a worker that holds a batch which it has not counted yet. A drill that wants to kill a worker
// in the middle of a job waits for one here.
func (c *center) counting(ctx context.Context) {
	select {
	case c.s.midJob <- c: // a drill is waiting: stay in the middle of the job until the worker is dead
		<-ctx.Done()
	default:
	}
}

// WaitIdle waits until every message is settled. It returns what is left when ctx ends.
func (s *Stack) WaitIdle(ctx context.Context) (left int, err error) {
	for {
		left = 0
		for _, p := range s.centers[0].pools {
			l, err := p.group.Lag(ctx)
			if err != nil {
				return left, err
			}
			left += l.Ready + l.Delayed + l.InFlight
		}
		if left == 0 {
			return 0, nil
		}
		if err := backoff.Sleep(ctx, 50*time.Millisecond); err != nil {
			return left, err
		}
	}
}

// Scaling is what the pools of workers went through.
type Scaling struct {
	PeakWorkers int           // of all pools together
	Workers     int           // now
	Least       int           // the least that the policies allow
	OldestAge   time.Duration // the highest age of a waiting message
}

// watch notes the peaks that the counters alone do not keep.
func (s *Stack) watch() {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		now := s.workers()
		for _, p := range s.centers[0].pools { // both centers work for the same groups
			if l, err := p.group.Lag(s.ctx); err == nil {
				now.OldestAge = max(now.OldestAge, l.OldestAge)
			}
		}
		s.mu.Lock()
		s.peak.PeakWorkers, s.peak.OldestAge = max(s.peak.PeakWorkers, now.Workers),
			max(s.peak.OldestAge, now.OldestAge)
		s.mu.Unlock()
	}
}

func (s *Stack) workers() (n Scaling) {
	for _, c := range s.centers {
		for _, p := range c.pools {
			n.Workers += p.pool.Workers()
			n.Least++
		}
	}
	return n
}

// Scaling returns the peaks so far.
func (s *Stack) Scaling() Scaling {
	n := s.workers()
	s.mu.Lock()
	defer s.mu.Unlock()
	n.PeakWorkers, n.OldestAge = s.peak.PeakWorkers, s.peak.OldestAge
	return n
}

// WaitScaledDown waits until every pool is at its least size.
func (s *Stack) WaitScaledDown(ctx context.Context) error {
	for {
		if n := s.workers(); n.Workers == n.Least {
			return nil
		}
		if err := backoff.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
