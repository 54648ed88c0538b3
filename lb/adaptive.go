package lb

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/gradient"
)

// ErrShed is returned for requests beyond the adaptive limit; it wraps ErrOverloaded. The handler answers 503 with
// Retry-After.
var ErrShed = fmt.Errorf("lb: shed, latency says that the backends are overloaded: %w", ErrOverloaded)

// Adaptive limits the requests of a balancer that are in flight at once to what its backends answer without queueing,
// whatever that number is today, and sheds the rest at once. Without it, load above capacity makes queues grow until
// every answer comes too late for the client that waits for it: work is done, and none of it is of use.
//
// The control law is the gradient of Envoy's adaptive concurrency filter and of Netflix's concurrency-limits
// (Gradient2, 2018): each window the limit becomes limit x min(1, Tolerance x base / latency) + sqrt(limit), where
// latency is the window's 90th percentile until an answer's header, and base the same without load. Differently from
// these, base is learned in passing: it falls with each better window and rises slowly while the limit is not reached.
// A balancer that stays at its limit for half a minute lowers it to a quarter for a moment and measures again, and
// where the limit fell to a quarter and latency did not follow, the service has become slower and base is what it is
// now.
//
// Answers with 503 or 504 and timeouts, where they are more than a tenth of a window's, lower the limit too. Upgraded
// and TCP connections are not counted: how long they live says nothing about load.
type Adaptive struct {
	Initial   int           // limit at the start, doubled per window while it is reached and latency allows; 0: 100
	Min, Max  int           // 0: 4 and 10,000
	Tolerance float64       // how many times base the latency may be; 0: 2; at least 1
	Window    time.Duration // least length of a window, which lasts for 50 answers or more; 0: 100 ms
	Queue     float64       // requests that wait when the limit is reached, as a share of it; 0: 0.5; negative: none
	Wait      time.Duration // longest wait there; 0: 100 ms

	// PerBackend gives each backend a limit of its own, in the place of one for all: what is too much for a slow
	// backend goes to others, and requests are shed when all are at theirs. It needs 50 answers of each backend per few
	// seconds; with fewer, or with many balancers before small backends, one limit for all sees more. Initial, Min and
	// Max are then those of one backend.
	PerBackend bool

	// below 0: shed first, from three quarters of the limit on and without a wait; above 0: shed last, a quarter above
	// it; nil: all 0
	Priority func(*http.Request) int
	// neither limited nor counted: long-lived streams such as server-sent events; nil: none
	Exempt func(*http.Request) bool
}

func (a Adaptive) withDefaults() (Adaptive, error) {
	if a.Min == 0 {
		a.Min = 4
	}
	if a.Max == 0 {
		a.Max = max(10_000, a.Min)
	}
	if a.Initial == 0 {
		a.Initial = min(max(100, a.Min), a.Max)
	}
	if a.Tolerance == 0 {
		a.Tolerance = 2
	}
	if a.Min < 1 || a.Max < a.Min || a.Initial < a.Min || a.Initial > a.Max || !(a.Tolerance >= 1) ||
		math.IsInf(a.Tolerance, 0) {
		return a, fmt.Errorf("lb: Options.Adaptive: Initial %d, Min %d, Max %d, Tolerance %v: want "+
			"1 <= Min <= Initial <= Max and a Tolerance of 1 or more",
			a.Initial, a.Min, a.Max, a.Tolerance)
	}
	if a.Window < 0 || a.Wait < 0 || math.IsNaN(a.Queue) || a.Queue > 100 {
		return a, fmt.Errorf("lb: Options.Adaptive: Window %v, Wait %v, Queue %v out of range", a.Window, a.Wait,
			a.Queue)
	}
	if a.Window == 0 {
		a.Window = 100 * time.Millisecond
	}
	if a.Wait == 0 {
		a.Wait = 100 * time.Millisecond
	}
	if a.Queue == 0 {
		a.Queue = 0.5
	}
	a.Queue = max(a.Queue, 0)
	return a, nil
}

// rank is a key with what a request is to the adaptive limit.
func (b *Balancer) rank(r *http.Request) (k Key) {
	a := b.o.Adaptive
	if a == nil {
		return k
	}
	switch {
	case len(r.Header["Upgrade"]) > 0 && upgradeOf(r) != "" || a.Exempt != nil && a.Exempt(r):
		k.Exempt = true
	case a.Priority != nil:
		k.Priority = int8(min(max(a.Priority(r), -1), 1))
	}
	return k
}

// limiter is the state of one balancer's Adaptive.
type limiter struct {
	o       Adaptive
	queue   queue
	changed func() // of one backend: who is told of a new limit; it then counts and queues nothing itself

	_        [64]byte
	inFlight atomic.Int64
	_        [64]byte
	limit    atomic.Int64
	reached  atomic.Bool  // in this window
	peak     atomic.Int64 // in flight, in this window
	until    atomic.Int64
	dropped  atomic.Uint64
	shed     atomic.Uint64
	baseNow  atomic.Int64 // base, for Stats
	window   histogram

	mu  sync.Mutex // guards law's state; tried, never waited for
	law gradient.Law
	now gradient.State
}

const (
	firstAnswers  = 16 // that base begins with
	windowAnswers = 50 // that a window has at least, overloads included
)

func newLimiter(o Adaptive) *limiter {
	l := &limiter{o: o, law: gradient.Law{Min: float64(o.Min), Max: float64(o.Max), Tolerance: o.Tolerance,
		Window: o.Window}}
	l.now = l.law.Start(float64(o.Initial))
	l.set(int64(l.now.Limit))
	l.until.Store(int64(time.Since(began) + o.Window))
	return l
}

// set makes n the limit and lets requests that wait go.
func (l *limiter) set(n int64) {
	l.limit.Store(n)
	if l.changed != nil {
		l.changed()
		return
	}
	l.queue.mu.Lock()
	l.queue.limit = int(l.o.Queue * float64(n))
	l.queue.mu.Unlock()
	for range n - l.inFlight.Load() {
		if l.queue.size.Load() == 0 {
			break
		}
		l.queue.wake()
	}
}

// allowed is the limit for requests of a priority.
func (l *limiter) allowed(priority int8) int64 {
	limit := l.limit.Load()
	switch {
	case priority < 0:
		return limit - limit/4
	case priority > 0:
		return limit + max(1, limit/4)
	}
	return limit
}

// enter counts a request if the limit allows it.
func (l *limiter) enter(priority int8) bool {
	limit := l.allowed(priority)
	for {
		n := l.inFlight.Load()
		if n >= limit {
			l.reached.Store(true)
			return false
		}
		if l.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// force counts what follows from a request that was let in: a retry, a hedge.
func (l *limiter) force() { l.inFlight.Add(1) }

func (l *limiter) leave() {
	l.inFlight.Add(-1)
	l.queue.wake()
}

// admit lets a request in, after a short wait perhaps. Errors: ErrShed, or ctx's.
func (l *limiter) admit(ctx context.Context, priority int8) error {
	if (l.queue.size.Load() == 0 || priority > 0) && l.enter(priority) {
		return nil
	}
	l.reached.Store(true)
	if priority < 0 {
		l.shed.Add(1)
		return ErrShed
	}
	var timeout *time.Timer
	for {
		ch := l.queue.join()
		if ch == nil {
			l.shed.Add(1)
			return ErrShed
		}
		if l.enter(priority) { // now that a release cannot be missed
			l.queue.leave(ch)
			return nil
		}
		if timeout == nil {
			timeout = time.NewTimer(l.o.Wait)
			defer timeout.Stop()
		}
		select {
		case <-ch:
			if l.enter(priority) {
				return nil
			}
		case <-timeout.C:
			l.queue.leave(ch)
			l.shed.Add(1)
			return ErrShed
		case <-ctx.Done():
			l.queue.leave(ch)
			return ctx.Err()
		}
	}
}

// observe takes the result of a request, which is one of inFlight, and, at a window's end, sets the limit.
func (l *limiter) observe(r *Result, inFlight int64) {
	switch r.verdict() {
	case verdictGood:
		l.window.add(r.Latency)
	case verdictOverloaded:
		l.dropped.Add(1)
	default:
		return // refused or broken: tells nothing about load
	}
	if inFlight > l.peak.Load() {
		l.peak.Store(inFlight)
	}
	// The first answers ever meet the shortest queue: base begins with them, not with a window in which a queue may
	// have grown.
	if l.baseNow.Load() == 0 && l.window.count.Load() >= firstAnswers && l.mu.TryLock() {
		if d, ok := quantile(0.9, 1, &l.window); ok {
			l.now = l.law.First(l.now, d)
			l.baseNow.Store(int64(l.now.Base))
		}
		l.mu.Unlock()
	}
	now := time.Since(began)
	if int64(now) < l.until.Load() || l.window.count.Load()+l.dropped.Load() < windowAnswers || !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	if int64(now) >= l.until.Load() {
		l.adjust(now)
	}
}

// adjust ends a window. mu is held.
func (l *limiter) adjust(now time.Duration) {
	w := gradient.Window{Now: now, Answers: l.window.count.Load(), Overloads: l.dropped.Swap(0)}
	w.Latency, _ = quantile(0.9, 1, &l.window)
	l.window.clear()
	w.Reached, w.Peak = l.reached.Swap(false), float64(l.peak.Swap(0))
	before := l.now.Limit
	l.now = l.law.Next(l.now, w)
	l.until.Store(int64(now + l.now.Length))
	l.baseNow.Store(int64(l.now.Base))
	if l.now.Limit != before {
		l.set(int64(l.now.Limit))
	}
}
