package lb

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/internal/socket"
)

// Pick chooses a backend and counts a request in flight on it until [Pick.Done]. It waits when every backend is at its
// connection limit. Errors: ErrNoBackend, ErrOverloaded (ErrShed among them), ErrClosed, or ctx's.
func (b *Balancer) Pick(ctx context.Context, k Key) (Pick, error) {
	return b.pick(ctx, k, nil)
}

func (b *Balancer) pick(ctx context.Context, k Key, avoid *tried) (Pick, error) {
	limited := b.o.Adaptive != nil && !k.Exempt
	switch {
	case avoid.len() == 0:
		b.requests.Add(1)
		if limited && b.limiter != nil {
			if err := b.limiter.admit(ctx, k.Priority); err != nil {
				b.refused.Add(1)
				return Pick{}, err
			}
		}
		b.budget.earn()
	case limited && b.limiter != nil:
		b.limiter.force()
	}
	entered := limited && b.limiter != nil
	if entered {
		defer func() {
			if entered { // no backend, or the user's Picker panicked
				b.limiter.leave()
			}
		}()
	}
	s := b.snap.Load()
	if be := s.take(k, avoid); be != nil {
		entered = false
		return b.lease(be, avoid.len(), limited), nil
	}
	var err error
	switch {
	case s.closed:
		err = ErrClosed
	case s.picker == nil || avoid.len() >= len(s.usable):
		err = ErrNoBackend
	default:
		var be *Backend
		if be, err = b.await(ctx, k, avoid); err == nil {
			entered = false
			return b.lease(be, avoid.len(), limited), nil
		}
	}
	if err != ErrClosed {
		b.refused.Add(1)
	}
	return Pick{}, err
}

func (b *Balancer) lease(be *Backend, attempt int, limited bool) Pick {
	be.requests.Add(1)
	p := Pick{owner: b, b: be, start: time.Since(began), limited: limited}
	if h := b.o.Hooks; h != nil && h.Picked != nil {
		b.picked(p, attempt)
	}
	return p
}

// picked calls Hooks.Picked. If that ends the goroutine, nobody else can end p.
func (b *Balancer) picked(p Pick, attempt int) {
	returned := false
	defer func() {
		if !returned {
			p.Cancel(Result{})
		}
	}()
	b.call("Hooks.Picked", func() { b.o.Hooks.Picked(p.b, attempt) })
	returned = true
}

// take picks a backend that is below its limit and not to be avoided, and counts the request on it.
func (s *snapshot) take(k Key, avoid *tried) *Backend {
	if s.picker == nil {
		return nil
	}
	if k.Sticky != "" {
		if be := s.byID[k.Sticky]; be != nil && !avoid.has(be) && be.State() == StateUp && be.acquire(k.rank()) {
			return be
		}
	}
	if be := s.picker.Pick(k); !avoid.has(be) && be.acquire(k.rank()) {
		return be
	}
	// Hash policies give the same answer again, so the key is varied: each failed key goes to a choice of its own, and
	// all balancers agree on it.
	for try := uint64(1); try <= 4; try++ {
		again := k
		again.Hash = placement.HashUint64(k.Hash + try*0x9e3779b97f4a7c15)
		if be := s.picker.Pick(again); !avoid.has(be) && be.acquire(k.rank()) {
			return be
		}
	}
	start := rand.IntN(len(s.usable))
	for i := range s.usable {
		be := s.usable[(start+i)%len(s.usable)]
		if !avoid.has(be) && be.acquire(k.rank()) {
			return be
		}
	}
	return nil
}

// await waits in the queue until a backend is below its limit.
func (b *Balancer) await(ctx context.Context, k Key, avoid *tried) (be *Backend, err error) {
	wait, full := b.o.QueueTimeout, ErrOverloaded
	if a := b.o.Adaptive; a != nil && a.PerBackend && !k.Exempt {
		if wait, full = a.Wait, ErrShed; k.Priority < 0 {
			b.shed.Add(1)
			return nil, ErrShed
		}
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	defer func() {
		if err == ErrShed {
			b.shed.Add(1)
		}
	}()
	for {
		ch := b.queue.join()
		if ch == nil {
			return nil, full
		}
		s := b.snap.Load() // again, now that a release cannot be missed
		if be := s.take(k, avoid); be != nil {
			b.queue.leave(ch)
			return be, nil
		}
		switch {
		case s.closed:
			b.queue.leave(ch)
			return nil, ErrClosed
		case s.picker == nil || avoid.len() >= len(s.usable):
			b.queue.leave(ch)
			return nil, ErrNoBackend
		}
		select {
		case <-ch:
			if be := b.snap.Load().take(k, avoid); be != nil {
				return be, nil
			}
		case <-timeout.C:
			b.queue.leave(ch)
			return nil, full
		case <-ctx.Done():
			b.queue.leave(ch)
			return nil, ctx.Err()
		}
	}
}

// Pick is one request on one backend.
type Pick struct {
	owner *Balancer
	b     *Backend
	start time.Duration // since the process began

	hedge   bool // the second of two attempts at once
	limited bool // counts at the limiter
}

// Backend that was picked.
func (l Pick) Backend() *Backend { return l.b }

// Result of one attempt on one backend.
type Result struct {
	Err      error         // transport error: the backend gave no proper answer
	Status   int           // HTTP status, 0 where there is none
	Latency  time.Duration // until the answer's header, without a wait in Pick; 0: the time from Pick's return to Done
	canceled bool          // it tells nothing about the backend, see Pick.Cancel
	outrun   bool          // another attempt answered first: this one would have taken longer than Latency
}

// Canceled reports whether the attempt tells nothing about the backend, see [Pick.Cancel].
func (r Result) Canceled() bool { return r.canceled }

// Failed reports whether the result speaks against the backend.
func (r Result) Failed() bool { return r.verdict() >= verdictFailed }

// verdict is what a result says about its backend.
type verdict uint8

const (
	verdictNone       verdict = iota // nothing: canceled, or another attempt was faster
	verdictGood                      // it answered
	verdictFailed                    // it failed
	verdictOverloaded                // it failed in a way that speaks of too much load
)

// verdict decides what counts as a failure, for ejection, the policies and the adaptive limit alike: a transport error,
// 502, 503 and 504. A timeout, 503 and 504 speak of overload too.
func (r *Result) verdict() verdict {
	switch {
	case r.canceled || r.outrun:
		return verdictNone
	case r.Status == http.StatusServiceUnavailable || r.Status == http.StatusGatewayTimeout:
		return verdictOverloaded
	case r.Err != nil:
		if errors.Is(r.Err, context.DeadlineExceeded) || socket.IsTimeout(r.Err) {
			return verdictOverloaded
		}
		return verdictFailed
	case r.Status == http.StatusBadGateway:
		return verdictFailed
	}
	return verdictGood
}

// failurePenalty is the least latency that a failure counts for, so that a host that fails fast looks slow.
const failurePenalty = 1.0 // seconds

// Done ends the request with its result. Exactly one of Done and Cancel must be called, once.
func (l Pick) Done(r Result) {
	l.settle(&r)
	l.release(r)
}

// Cancel ends a request whose result tells nothing about the backend: the client left, or its request was at fault. r
// goes to Hooks.Done and is not judged.
func (l Pick) Cancel(r Result) {
	r.canceled = true
	l.Done(r)
}

// settle takes the verdict, which a streamed answer has long before it ends.
func (l Pick) settle(r *Result) {
	if r.Latency == 0 {
		r.Latency = time.Since(began) - l.start
	}
	if l.limited {
		if own := l.b.limiter; own != nil {
			own.observe(r, l.b.inFlight.Load())
		} else {
			l.owner.limiter.observe(r, l.owner.limiter.inFlight.Load())
		}
	}
	if r.canceled {
		return
	}
	seconds := r.Latency.Seconds()
	if m := l.owner.measured; m != nil && !l.hedge && !r.Failed() {
		// an attempt that was outrun counts with what it took until then, else the tail that hedges cut off would be
		// forgotten
		m.add(r.Latency)
	}
	if r.outrun {
		if now := stamp(); seconds > l.b.latency.at(now, l.b.rate) {
			l.b.latency.observe(seconds, now, l.b.rate)
		}
		return
	}
	if r.Failed() {
		l.b.failures.Add(1)
		seconds = max(seconds, failurePenalty)
		l.b.suspected()
		l.owner.failed(l.b, l.start)
	} else {
		l.b.outlier.success()
		if n := l.b.suspect.Load(); n != 0 {
			l.b.cleared(n)
		}
	}
	l.b.latency.observe(seconds, stamp(), l.b.rate)
}

func (l Pick) release(r Result) {
	l.b.ended()
	l.owner.queue.wake()
	if l.limited && l.owner.limiter != nil {
		l.owner.limiter.leave()
	}
	if h := l.owner.o.Hooks; h != nil && h.Done != nil {
		l.owner.call("Hooks.Done", func() { h.Done(l.b, r) })
	}
}

// budget lets retries be a share of the requests, so that an outage is not multiplied. It earns Budget per request and
// holds up to 500; it starts with 100, so that a young balancer survives a dead backend too.
type budget struct {
	earns  int64 // thousandths per request; negative: no limit
	tokens atomic.Int64
}

func (g *budget) init(share float64) {
	g.earns = int64(share * 1000)
	g.tokens.Store(100_000)
}

func (g *budget) earn() {
	if g.earns > 0 && g.tokens.Load() < 500_000 {
		g.tokens.Add(g.earns)
	}
}

// refund gives back what was spent on an attempt that was not made.
func (g *budget) refund() {
	if g.earns >= 0 {
		g.tokens.Add(1000)
	}
}

func (g *budget) spend() bool {
	if g.earns < 0 {
		return true
	}
	if g.tokens.Add(-1000) >= 0 {
		return true
	}
	g.tokens.Add(1000)
	return false
}
