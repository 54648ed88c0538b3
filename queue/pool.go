package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// PoolOptions configure a pool of workers. The zero value is good.
type PoolOptions struct {
	// Workers at the start. Default 1; negative: none until SetWorkers.
	Workers int
	// Timeout ends a handler's context. Default: none; the lease is extended for as long as the handler runs.
	Timeout time.Duration
	// StuckAfter stops extending the lease of a handler that has run so long, so that another worker gets the message.
	// Default 10 leases (or Timeout plus one lease, when Timeout is set).
	StuckAfter time.Duration
	// Limits bound what each key may take of the pool. The zero value sets none.
	Limits Limits
	// Hooks observe the pool.
	Hooks *PoolHooks
}

// PoolHooks are called from the workers; nil fields cost nothing.
type PoolHooks struct {
	// Done is called after each handler call with the number of jobs, the time it took and its error.
	Done func(kind string, jobs int, took time.Duration, err error)
	// Panicked is called with what a handler panicked with; the job is retried as after any error.
	Panicked func(kind string, value any, stack []byte)
}

// Pool runs handlers on the messages of a group. Its size may change at any time: [Pool.SetWorkers] is what an
// autoscaler turns. It is safe for concurrent use.
type Pool struct {
	group  *Group
	mux    *Mux
	o      PoolOptions
	fetch  int           // messages that a worker takes at once
	linger time.Duration // it waits so long for more
	limits *limiter      // nil without limits

	mu      sync.Mutex // guards what follows
	want    int
	workers map[*worker]struct{}
	closed  bool

	running sync.WaitGroup
	stats   poolStats
}

type poolStats struct{ busy, succeeded, failed, panicked, unhandled, lost, limited atomic.Int64 }

// NewPool starts a pool. Close or Shutdown must be called.
func NewPool(g *Group, m *Mux, o PoolOptions) (*Pool, error) {
	if len(m.routes) == 0 {
		return nil, errors.New("queue: the pool's mux has no handlers")
	}
	if o.Timeout < 0 || o.StuckAfter < 0 {
		return nil, errors.New("queue: PoolOptions.Timeout or StuckAfter is negative")
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.StuckAfter == 0 {
		o.StuckAfter = 10 * min(g.Lease(), math.MaxInt64/10)
		if o.Timeout > 0 {
			o.StuckAfter = time.Duration(after(int64(o.Timeout), g.Lease()))
		}
	}
	if err := o.Limits.check(); err != nil {
		return nil, err
	}
	p := &Pool{group: g, mux: m, o: o, workers: map[*worker]struct{}{}}
	if o.Limits.any() {
		p.limits = newLimiter(o.Limits)
	}
	for _, r := range m.routes {
		// Messages of kinds that are handled one by one are not held in a worker's hand while another worker is idle.
		if r.max == 1 {
			p.fetch, p.linger = 1, 0
			break
		}
		p.fetch, p.linger = max(p.fetch, r.max), max(p.linger, r.wait)
	}
	p.linger = min(p.linger, g.Lease()/3) // the leases run meanwhile, and nobody extends them
	p.SetWorkers(max(0, o.Workers))
	return p, nil
}

// Workers is the number of workers asked for.
func (p *Pool) Workers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want
}

// SetWorkers changes the number of workers. A worker that is let go finishes its message first.
func (p *Pool) SetWorkers(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.want = max(0, n)
	p.adjust()
}

// adjust starts and stops workers until there are as many as wanted; p.mu is held.
func (p *Pool) adjust() {
	active := 0
	for w := range p.workers {
		if !w.leaving {
			active++
		}
	}
	for w := range p.workers {
		if active <= p.want {
			break
		}
		if !w.leaving {
			w.leaving = true
			w.stop()
			active--
		}
	}
	for ; active < p.want; active++ {
		w := &worker{pool: p}
		w.fetching, w.stop = context.WithCancel(context.Background())
		w.handling, w.abort = context.WithCancel(context.Background())
		p.workers[w] = struct{}{}
		p.running.Add(1)
		go w.run()
	}
}

// Lag says how far the pool's group is behind.
func (p *Pool) Lag(ctx context.Context) (Lag, error) { return p.group.Lag(ctx) }

// Kill abandons up to n workers as if their machine had died: their handlers' contexts end, nothing that they hold is
// acknowledged or given back, also not by a handler that goes on, and their messages are delivered again when the
// leases end. Workers that hold messages go first. It returns how many of these there were. The pool starts new workers
// in their place; to shrink as well, call SetWorkers. For failure drills.
func (p *Pool) Kill(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	killed, atWork := 0, 0
	for _, busy := range []bool{true, false} {
		for w := range p.workers {
			if killed == n {
				break
			}
			if w.busy.Load() == busy && !w.dead.Swap(true) {
				w.leaving = true
				w.stop()
				w.abort()
				killed++
				if busy {
					atWork++
				}
			}
		}
	}
	if !p.closed {
		p.adjust()
	}
	return atWork
}

// Shutdown stops fetching, gives unstarted messages back without using up an attempt, and waits for running handlers.
// When ctx ends first, the handlers' contexts end, and what they hold is given back when they return; Shutdown does not
// wait for that.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.end(false)
	done := make(chan struct{})
	go func() {
		p.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		p.end(true)
		return fmt.Errorf("queue: shutdown: %w", ctx.Err())
	}
}

// Close is Shutdown without patience: running handlers' contexts end at once. It waits for them to return. Idempotent.
func (p *Pool) Close() error {
	p.end(true)
	p.running.Wait()
	return nil
}

func (p *Pool) end(abort bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for w := range p.workers {
		w.leaving = true
		w.stop()
		if abort {
			w.abort()
		}
	}
}

// Stats is cheap and safe at any time.
func (p *Pool) Stats() PoolStats {
	s := &p.stats
	return PoolStats{Workers: int64(p.Workers()), Busy: s.busy.Load(), Succeeded: s.succeeded.Load(),
		Failed:   s.failed.Load(),
		Panicked: s.panicked.Load(), Unhandled: s.unhandled.Load(), LeaseLost: s.lost.Load(), Limited: s.limited.Load()}
}

// PoolStats are the counters of a pool.
type PoolStats struct {
	Workers   int64 `metric:"workers,gauge,Workers asked for"`
	Busy      int64 `metric:"busy_workers,gauge,Workers that hold messages"`
	Succeeded int64 `metric:"jobs_succeeded_total,counter,Jobs whose handler returned nil"`
	Failed    int64 `metric:"jobs_failed_total,counter,Jobs whose handler returned an error"`
	Panicked  int64 `metric:"handler_panics_total,counter,Handler calls that panicked"`
	Unhandled int64 `metric:"jobs_unhandled_total,counter,Jobs of a kind without handler"`
	LeaseLost int64 `metric:"jobs_lease_lost_total,counter,Jobs that were done after their lease had ended"`
	Limited   int64 `metric:"jobs_limited_total,counter,Deliveries given back because their key was over a limit"`
}

// pause is the wait after a failed fetch.
func (p *Pool) pause(ctx context.Context, attempt int) {
	_ = backoff.Sleep(ctx, backoff.Policy{}.Delay(attempt))
}
