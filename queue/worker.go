package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// worker is one goroutine of a pool.
type worker struct {
	pool     *Pool
	fetching context.Context // ends when the worker is let go
	stop     context.CancelFunc
	handling context.Context // ends when it must stop in mid-job
	abort    context.CancelFunc
	busy     atomic.Bool
	dead     atomic.Bool // killed: nothing it does counts any more
	leaving  bool        // guarded by pool.mu
}

func (w *worker) run() {
	p := w.pool
	defer p.running.Done()
	returned := false
	defer func() {
		w.stop()
		w.abort()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.workers, w)
		if !returned && !p.closed { // a handler has ended this goroutine (runtime.Goexit): another takes its place
			p.stats.busy.Add(-1)
			p.adjust()
		}
	}()
	w.loop()
	returned = true
}

func (w *worker) loop() {
	p := w.pool
	failures := 0
	for w.fetching.Err() == nil {
		ds, err := p.group.Fetch(w.fetching, p.fetch)
		if err != nil {
			if w.fetching.Err() != nil || errors.Is(err, ErrClosed) {
				return
			}
			p.pause(w.fetching, failures)
			failures++
			continue
		}
		failures = 0
		ds = w.fill(ds)
		if w.dead.Load() {
			return
		}
		ds, keys := p.within(ds)
		if len(ds) == 0 {
			continue
		}
		w.busy.Store(true)
		p.stats.busy.Add(1)
		w.handle(ds, keys)
		p.stats.busy.Add(-1)
		w.busy.Store(false)
	}
}

// fill waits for more messages of a batch.
func (w *worker) fill(ds []*Delivery) []*Delivery {
	p := w.pool
	if p.linger == 0 || len(ds) == p.fetch {
		return ds
	}
	ctx, cancel := context.WithTimeout(w.fetching, p.linger)
	defer cancel()
	for len(ds) < p.fetch {
		more, err := p.group.Fetch(ctx, p.fetch-len(ds))
		ds = append(ds, more...)
		if err != nil {
			break
		}
	}
	return ds
}

// handle runs the handlers of everything that was fetched, kind by kind in the order of arrival, and keeps the leases
// alive meanwhile.
func (w *worker) handle(ds []*Delivery, keys []string) {
	defer func() {
		for _, k := range keys {
			w.pool.limits.done(k)
		}
	}()
	for _, d := range ds {
		d.gate = &w.dead
	}
	beat := w.heartbeat(ds)
	defer beat()
	for len(ds) > 0 {
		if w.fetching.Err() != nil { // let go: what is not started goes back, its attempt not counted
			_ = w.pool.group.settle(context.Background(), ds, Settlement{Verdict: Release})
			return
		}
		k := ds[0].Kind
		route, known := w.pool.mux.routes[k]
		var batch, rest []*Delivery
		for _, d := range ds {
			if d.Kind == k && len(batch) < max(1, route.max) {
				batch = append(batch, d)
			} else {
				rest = append(rest, d)
			}
		}
		if known {
			w.call(k, route.handle, batch)
		} else {
			w.pool.stats.unhandled.Add(int64(len(batch)))
			w.settle(batch, fmt.Errorf("no handler for kind %q", k))
		}
		ds = rest
	}
}

// call runs one handler and settles what it leaves.
func (w *worker) call(k string, h HandlerFunc, ds []*Delivery) {
	p := w.pool
	ctx := w.handling
	if p.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.o.Timeout)
		defer cancel()
	}
	for i := len(p.mux.around) - 1; i >= 0; i-- {
		h = p.mux.around[i](h)
	}
	start := time.Now()
	err := w.guarded(ctx, k, h, ds)
	if w.dead.Load() {
		return
	}
	if err == nil {
		p.stats.succeeded.Add(int64(len(ds)))
	} else {
		p.stats.failed.Add(int64(len(ds)))
	}
	if hk := p.o.Hooks; hk != nil && hk.Done != nil {
		hk.Done(k, len(ds), time.Since(start), err)
	}
	w.settle(ds, err)
}

func (w *worker) guarded(ctx context.Context, k string, h HandlerFunc, ds []*Delivery) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		v := recover() // nil: runtime.Goexit
		w.pool.stats.panicked.Add(1)
		if hk := w.pool.o.Hooks; hk != nil && hk.Panicked != nil {
			hk.Panicked(k, v, debug.Stack())
		}
		err = fmt.Errorf("handler panicked: %v", v)
	}()
	err = h(ctx, ds)
	returned = true
	return err
}

// settle does with unsettled messages what the handler's result says.
func (w *worker) settle(ds []*Delivery, err error) {
	open := make([]*Delivery, 0, len(ds))
	for _, d := range ds {
		if !d.settled.Load() {
			open = append(open, d)
		}
	}
	s := Settlement{Verdict: Ack}
	switch {
	case err == nil:
	case errors.Is(err, ErrDrop):
		s = Settlement{Verdict: Term, Reason: err.Error()}
	case w.handling.Err() != nil:
		s = Settlement{Verdict: Nack, Delay: 0, Reason: err.Error()}
	default:
		s = Settlement{Verdict: Nack, Delay: -1, Reason: err.Error()}
	}
	if err := w.pool.group.settle(context.Background(), open, s); errors.Is(err, ErrLeaseLost) {
		w.pool.stats.lost.Add(1)
	}
}

// heartbeat extends the leases every third of a lease, but not for ever: a stuck handler loses its messages to others.
func (w *worker) heartbeat(ds []*Delivery) (stop func()) {
	lease := w.pool.group.Lease()
	start := time.Now()
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	beat := func() {
		if w.dead.Load() || time.Since(start) > w.pool.o.StuckAfter {
			return
		}
		var open []*Delivery
		for _, d := range ds {
			if !d.settled.Load() {
				open = append(open, d)
			}
		}
		ctx, cancel := context.WithTimeout(w.handling, lease)
		_ = w.pool.group.settle(ctx, open, Settlement{Verdict: Extend})
		cancel()
		mu.Lock()
		if !stopped && len(open) > 0 {
			timer.Reset(lease / 3)
		}
		mu.Unlock()
	}
	mu.Lock()
	timer = time.AfterFunc(lease/3, beat)
	mu.Unlock()
	return func() {
		mu.Lock()
		stopped = true
		timer.Stop()
		mu.Unlock()
	}
}
