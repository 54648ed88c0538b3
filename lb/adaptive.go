package lb

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
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
		return a, fmt.Errorf("lb: Options.Adaptive: Initial %d, Min %d, Max %d, Tolerance %v: want 1 <= Min <= Initial <= Max and a Tolerance of 1 or more",
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

	mu      sync.Mutex    // guards what follows; tried, never waited for
	base    float64       // seconds; 0: not known yet
	opening bool          // the limit has never been too high
	known   bool          // base was measured without load, once
	full    time.Duration // when the limit began to be reached all the time; 0: it is not
	top     float64       // limit when it began to fall steeply; 0: it does not
	probe   int           // windows left of a measurement at a quarter of the limit
	resume  int64         // limit before that
}

const (
	firstAnswers   = 16
	windowAnswers  = 50
	windowMost     = time.Second      // a window lasts as long as an answer takes, up to this
	measureAfter   = 30 * time.Second // at the limit
	measureWindows = 8                // at a quarter of the limit, at most
)

func newLimiter(o Adaptive) *limiter {
	l := &limiter{o: o, opening: true}
	l.set(float64(o.Initial))
	l.until.Store(int64(time.Since(began) + o.Window))
	return l
}

func (l *limiter) set(limit float64) {
	n := int64(min(max(limit, float64(l.o.Min)), float64(l.o.Max)))
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
		if d, ok := quantile(0.9, 1, &l.window); ok && l.base == 0 {
			l.learn(d, true)
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
	answers, dropped := l.window.count.Load(), l.dropped.Swap(0)
	d, ok := quantile(0.9, 1, &l.window)
	l.window.clear()
	reached := l.reached.Swap(false)
	peak := float64(l.peak.Swap(0))
	length := min(max(l.o.Window, d), windowMost)
	l.until.Store(int64(now + length))

	limit := float64(l.limit.Load())
	latency := d.Seconds()
	overloaded := dropped*10 > answers+dropped
	settled := peak <= 1.1*limit+1 // what was in flight above it has drained
	if l.probe > 0 {
		if l.probe--; l.probe < measureWindows-1 && settled { // the first window has answers to requests of before
			if ok {
				l.measured(d)
			}
			l.probe = 0
		}
		if l.probe == 0 {
			l.set(float64(l.resume))
		}
		return
	}
	gradient := 1.0
	if ok {
		l.learn(d, reached)
		gradient = min(1, max(0.5, l.o.Tolerance*l.base/latency))
	}
	l.opening = l.opening && gradient == 1 && !overloaded
	if gradient > 0.75 {
		l.top = 0
	} else if l.top == 0 {
		l.top = limit
	} else if limit <= max(l.top/4, float64(l.o.Min)) && settled && ok {
		// A quarter of the requests are as slow as all of them were: it is not their number. The service has become
		// slower.
		l.top = 0
		l.measured(d)
		return
	}

	switch {
	case !reached:
		l.full = 0
	case l.full == 0 && l.known:
		l.full = now
	case !l.known, now-l.full > measureAfter: // not known: all that was ever measured was measured under load
		l.full, l.probe, l.resume = now, measureWindows, int64(limit)
		l.set(limit / 4)
		return
	}
	next := limit*gradient + math.Sqrt(limit)
	if l.opening {
		next = 2 * limit
	}
	if overloaded {
		next = min(next, limit*0.9)
	}
	if next <= limit || reached { // a limit that is not used is not raised
		l.set(next)
	}
}

// measured sets base to what was seen with few requests.
func (l *limiter) measured(d time.Duration) {
	l.base, l.known = d.Seconds(), true
	l.baseNow.Store(int64(d))
}

// learn moves base towards a window's latency: down soon, since load only adds to a latency, and not by one lucky
// window alone; up only while nothing is held back, slowly.
func (l *limiter) learn(d time.Duration, reached bool) {
	latency := d.Seconds()
	switch {
	case l.base == 0:
		l.base = latency
	case latency < l.base:
		l.base += (latency - l.base) / 5
	case !reached:
		l.base += (latency - l.base) / 50
	}
	l.known = l.known || !reached
	l.baseNow.Store(int64(l.base * 1e9))
}
