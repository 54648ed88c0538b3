package lb

import (
	"context"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/health"
	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/warn"
)

// BackendState is where a backend stands.
//
//	state     entered when                               left when
//	up        it is added, undrained or found healthy    a check fails, an ejection, a drain
//	down      Health.Fall probes fail in a row           Health.Rise probes succeed in a row
//	ejected   passing requests fail (see Outlier)        its time is over
//	draining  Drain                                      Undrain
//	removed   Update without it                          never
type BackendState uint8

const (
	StateUp       BackendState = iota // may be picked; unknown counts as up
	StateDown                         // active checks fail
	StateEjected                      // passive checks ejected it for a while
	StateDraining                     // gets no new requests
	StateRemoved                      // left the pool by Update
)

func (s BackendState) String() string {
	return [...]string{"up", "down", "ejected", "draining", "removed"}[s]
}

// Backend is one server of the pool as the balancer sees it. Its methods are safe for concurrent use.
type Backend struct {
	id   string
	pool http1.Pool

	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	queue *queue // of the requests that wait for it or another

	ep       atomic.Pointer[Endpoint]
	weight   atomic.Uint64 // bits of the float: the weight now
	state    atomic.Uint32
	maxConns atomic.Int64 // 0: no limit
	rate     float64      // at which latency fades

	limiter   *limiter  // adaptive, of this backend; nil: none
	following following // pickers that keep an index of loads

	_        [64]byte // the counters of a request are on lines of their own, away from what every pick reads
	inFlight atomic.Int64
	latency  ewma
	requests atomic.Uint64
	failures atomic.Uint64
	outlier  window
	slate    atomic.Int64 // when outlier was last cleaned, in nanoseconds since the process began
	// not 0: its last result is a failure, of the last suspicion, and this numbers the suspicion: policies that go by
	// load take others first
	suspect atomic.Uint32
	doubts  atomic.Uint32 // suspicions so far
	_       [64]byte

	checks warn.Tally // active checks that failed

	// Guarded by Balancer.mu.
	machine   health.Machine
	stop      func() // ends its probe loop
	drained   bool
	ejected   bool
	ejections int // in a row
	until     time.Time
	rampFrom  time.Time // slow start began then; zero: none
}

// ID of the backend, stable across updates.
func (b *Backend) ID() string { return b.id }

// Endpoint as it was given, with defaults filled in.
func (b *Backend) Endpoint() Endpoint { return *b.ep.Load() }

// Weight at this moment: lower than the endpoint's during slow start.
func (b *Backend) Weight() float64 { return math.Float64frombits(b.weight.Load()) }

// Dial opens a connection to the backend with Options.Dial, within Timeouts.Dial and AllowedNets.
func (b *Backend) Dial(ctx context.Context) (net.Conn, error) {
	return b.dial(ctx, "tcp", b.ep.Load().Addr)
}

// Conns returns the pool of HTTP/1 connections to the backend, which Handler and front share.
func (b *Backend) Conns() *http1.Pool { return &b.pool }

// InFlight is the number of requests on it now.
func (b *Backend) InFlight() int { return int(b.inFlight.Load()) }

// Latency is the peak-sensitive mean that PeakEWMA uses; 0 when unknown.
func (b *Backend) Latency() time.Duration {
	return time.Duration(b.latency.at(stamp(), b.rate) * float64(time.Second))
}

// Failing reports whether the backend's last answer was a failure, less than a second ago. A host that fails fast is
// idle most of the time: policies that go by load take others first, so that it gains no traffic by that.
func (b *Backend) Failing() bool { return b.suspect.Load() != 0 }

// State of the backend now.
func (b *Backend) State() BackendState { return BackendState(b.state.Load()) }

// acquire counts one more request unless the backend is at its limit, or has been taken out of service since the
// snapshot was made that it was found in. It is looked at after counting: Drain, which counts after it has changed the
// state, then sees this request, or this request sees the drain.
func (b *Backend) acquire(priority int8) bool {
	if !b.count(priority) {
		return false
	}
	if b.State() >= StateDraining {
		b.ended()
		if b.queue != nil {
			b.queue.wake() // who found it at its limit meanwhile
		}
		return false
	}
	return true
}

func (b *Backend) count(priority int8) bool {
	limit := b.maxConns.Load()
	if b.limiter != nil && priority != exempt {
		if a := b.limiter.allowed(priority); limit == 0 || a < limit {
			limit = a
		}
	}
	if limit == 0 {
		b.inFlight.Add(1)
		b.following.notify()
		return true
	}
	for {
		n := b.inFlight.Load()
		if n >= limit {
			if b.limiter != nil {
				b.limiter.reached.Store(true)
			}
			return false
		}
		if b.inFlight.CompareAndSwap(n, n+1) {
			b.following.notify()
			return true
		}
	}
}

// Full reports whether the backend is at its connection limit, or at its adaptive limit for requests of priority 0.
func (b *Backend) Full() bool {
	inFlight := b.inFlight.Load()
	if limit := b.maxConns.Load(); limit > 0 && inFlight >= limit {
		return true
	}
	return b.limiter != nil && inFlight >= b.limiter.limit.Load()
}

// suspicion ends without a success too, so that a backend that gets no requests is tried again.
const suspicion = time.Second

// suspected: a host that fails fast is idle most of the time, and must not gain traffic by that.
func (b *Backend) suspected() {
	if b.suspect.Load() != 0 {
		return
	}
	if n := max(b.doubts.Add(1), 1); b.suspect.CompareAndSwap(0, n) {
		time.AfterFunc(suspicion, func() { b.cleared(n) })
	}
}

// cleared ends the n-th suspicion, unless it has ended: the next one has a time of its own.
func (b *Backend) cleared(n uint32) {
	if b.suspect.CompareAndSwap(n, 0) {
		b.following.notify()
	}
}

// ended counts one request less.
func (b *Backend) ended() {
	b.inFlight.Add(-1)
	b.following.notify()
}

// ewma is a latency mean that jumps up with a peak and decays with time, in one word, so that an update is one
// compare-and-swap: the upper half is a float32 of seconds, the lower half the time of the last update in milliseconds.
type ewma struct{ word atomic.Uint64 }

const defaultDecay = 3.0 // seconds

// fadeRate is the rate, per millisecond and in steps of fades, that goes with a time constant in seconds.
func fadeRate(decay float64) float64 { return fadeSteps / (1000 * decay) }

var began = time.Now()

// stamp is the process's monotonic time in milliseconds; it wraps after 49 days, which differences survive.
func stamp() uint32 { return uint32(time.Since(began) / time.Millisecond) }

func (e *ewma) at(now uint32, rate float64) float64 {
	w := e.word.Load()
	v := float64(math.Float32frombits(uint32(w >> 32)))
	if dt := now - uint32(w); dt > 0 && dt < 1<<31 && v > 0 {
		v *= fading(float64(dt) * rate)
	}
	return v
}

func (e *ewma) observe(seconds float64, now uint32, rate float64) {
	for {
		old := e.word.Load()
		v := float64(math.Float32frombits(uint32(old >> 32)))
		if old == 0 || seconds > v {
			v = seconds
		} else if dt := now - uint32(old); dt < 1<<31 {
			k := fading(float64(dt) * rate)
			v = v*k + seconds*(1-k)
		}
		if e.word.CompareAndSwap(old, uint64(math.Float32bits(float32(v)))<<32|uint64(now)) {
			return
		}
	}
}

const fadeSteps = 32

// fading is exp(-x/fadeSteps) for x of 0 or more, to within 2e-4, from a table: two of them are in every pick of
// PeakEWMA.
func fading(x float64) float64 {
	i := int(x)
	if i >= len(fades)-1 {
		return 0
	}
	return fades[i] + (fades[i+1]-fades[i])*(x-float64(i))
}

var fades = func() (t [8*fadeSteps + 1]float64) {
	for i := range t {
		t[i] = math.Exp(-float64(i) / fadeSteps)
	}
	return t
}()

// window counts successes and failures: in a row, and within the last Outlier.Window. It is per backend, and its lock
// is held for a few additions only when a failure was seen lately; a healthy backend's requests do not lock.
type window struct {
	row    atomic.Int32 // failures in a row
	ok     atomic.Int64 // since the window began
	mu     sync.Mutex   // guards the fields below
	failed int64
	since  time.Time
}

func (w *window) success() {
	if w.row.Load() != 0 {
		w.row.Store(0)
	}
	w.ok.Add(1)
}

// failure returns the failures in a row and, over the window, the failed and all requests.
func (w *window) failure(now time.Time, length time.Duration) (row int, failed, all int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.since) > length {
		w.since, w.failed = now, 0
		w.ok.Store(0)
	}
	w.failed++
	return int(w.row.Add(1)), w.failed, w.failed + w.ok.Load()
}

func (w *window) reset() {
	w.mu.Lock()
	w.failed, w.since = 0, time.Time{}
	w.mu.Unlock()
	w.ok.Store(0)
	w.row.Store(0)
}
