package queue

import (
	"context"
	"time"
)

// PoolOptions configure a pool of workers. The zero value is good.
type PoolOptions struct {
	// Workers at the start. Default 1; negative: none until SetWorkers.
	Workers int
	// Timeout ends a handler's context. Default: none; the lease is extended for as long as the handler runs.
	Timeout time.Duration
	// StuckAfter stops extending the lease of a handler that has run so long, so that another worker gets the message. Default 10 leases
	// (or Timeout plus one lease, when Timeout is set).
	StuckAfter time.Duration
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

// Pool runs handlers on the messages of a group. Its size may change at any time: [Pool.SetWorkers] is what an autoscaler turns.
type Pool struct {
}

// NewPool starts a pool. Close or Shutdown must be called.
func NewPool(g *Group, m *Mux, o PoolOptions) (*Pool, error) { return &Pool{}, nil }

// Workers is the number of workers asked for.
func (p *Pool) Workers() int { return 0 }

// SetWorkers changes the number of workers. A worker that is let go finishes its message first.
func (p *Pool) SetWorkers(n int) {}

// Lag says how far the pool's group is behind.
func (p *Pool) Lag(ctx context.Context) (Lag, error) { return Lag{}, nil }

// Stats is cheap and safe at any time.
func (p *Pool) Stats() PoolStats { return PoolStats{} }

// Kill abandons up to n workers as if their machine had died: their handlers' contexts end, nothing that they hold is
// acknowledged or given back, and their messages are delivered again when the leases end. It returns how many were at work. The pool starts new workers in
// their place; to shrink as well, call SetWorkers. For failure drills.
func (p *Pool) Kill(n int) int { return 0 }

// Shutdown stops fetching, gives unstarted messages back without using up an attempt, and waits for running handlers until ctx
// ends; then their contexts end and what they hold is given back.
func (p *Pool) Shutdown(ctx context.Context) error { return nil }

// Close is Shutdown without patience: running handlers' contexts end at once. It waits for them to return. Idempotent.
func (p *Pool) Close() error { return nil }

// PoolStats are the counters of a pool.
type PoolStats struct {
	Workers   int64 `metric:"workers,gauge,Workers asked for."`
	Busy      int64 `metric:"busy_workers,gauge,Workers running a handler."`
	Succeeded int64 `metric:"jobs_succeeded_total,counter,Jobs whose handler returned nil."`
	Failed    int64 `metric:"jobs_failed_total,counter,Jobs whose handler returned an error."`
	Panicked  int64 `metric:"handler_panics_total,counter,Handler calls that panicked."`
	Unhandled int64 `metric:"jobs_unhandled_total,counter,Jobs of a kind without handler."`
}
