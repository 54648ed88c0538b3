package lb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
	"github.com/tierkit/tierkit/internal/health"
	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
)

// Errors that a caller can act on; test with errors.Is.
var (
	ErrNoBackend      = errors.New("lb: no backend available")          // the pool is empty, or all are draining
	ErrOverloaded     = errors.New("lb: every backend is at its limit") // waited for QueueTimeout, or the queue is full
	ErrUnknownBackend = errors.New("lb: unknown backend")
	ErrClosed         = errors.New("lb: closed")
	ErrClient         = errors.New("lb: client") // the client left or its request is at fault; wraps the cause
)

// Balancer picks backends. Create one with [New]; it is safe for concurrent use.
type Balancer struct {
	o        Options
	snap     atomic.Pointer[snapshot]
	budget   budget
	queue    queue
	fallback *transports

	prober   *prober    // nil unless the policy is Prequal
	limiter  *limiter   // nil: no adaptive limit
	measured *latencies // nil unless requests are hedged by a quantile

	log       *warn.Log
	states    usercode.Serial // runs Hooks.State
	callbacks warn.Tally      // functions of the user that failed
	failures  warn.Tally      // requests without an answer, see Handler.Fail

	requests, retries, noRetry, refused, ejected, hedges, hedgesWon, shed atomic.Uint64

	// guards what follows and the mutable half of each Backend; never held while calling out
	mu       sync.Mutex
	backends map[string]*Backend // in the pool, by ID
	running  bool                // New has returned: what joins now ramps
	ramping  *time.Timer         // next step of slow start
	closed   bool
	reserve  heapReserve // from the first Handler until Close
	probes   sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
}

// New returns a running balancer over endpoints, which may be empty until the first [Balancer.Update]. Invalid options
// are an error that names the field. Close it to stop its checks.
func New(endpoints []Endpoint, o Options) (*Balancer, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Balancer{o: o, backends: map[string]*Backend{}, log: warn.New(o.Logger)}
	b.states.Failed = func(err error) { b.callbackFailed(fmt.Errorf("Hooks.State: %w", err)) }
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.budget.init(o.Retry.Budget)
	b.queue.limit = o.MaxQueue
	if o.Hedge.Quantile > 0 {
		b.measured = new(latencies)
	}
	if p, ok := o.Policy.(prequal); ok {
		b.prober = newProber(b, p)
		b.probes.Go(b.prober.run)
	}
	if o.Adaptive != nil && !o.Adaptive.PerBackend {
		b.limiter = newLimiter(*o.Adaptive)
	}
	b.fallback = newTransports(&b.o)
	if err := b.Update(endpoints); err != nil {
		b.Close()
		return nil, err
	}
	b.mu.Lock()
	b.running = true
	b.mu.Unlock()
	return b, nil
}

// Options returns the options that are in force: those of [New], with defaults filled in.
func (b *Balancer) Options() Options { return b.o }

// PlainHTTP reports whether every backend speaks HTTP/1.1 without TLS.
func (b *Balancer) PlainHTTP() bool { return b.snap.Load().plain }

// Update replaces the endpoints. Backends whose ID, address and scheme stay keep their connections, state and counters;
// those that left finish their requests and get no new ones. On an error nothing changes.
func (b *Balancer) Update(endpoints []Endpoint) error {
	next := make(map[string]Endpoint, len(endpoints))
	for i, e := range endpoints {
		e, err := e.withDefaults()
		if err != nil {
			return fmt.Errorf("lb: endpoints[%d]: %w", i, err)
		}
		if _, dup := next[e.ID]; dup {
			return fmt.Errorf("lb: endpoints[%d]: ID %q stands twice", i, e.ID)
		}
		next[e.ID] = e
	}
	next = b.o.Subset.of(next)

	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	for id, be := range b.backends {
		e, stays := next[id]
		old := be.ep.Load()
		if stays && e.Addr == old.Addr && e.Scheme == old.Scheme {
			be.ep.Store(&e)
			be.maxConns.Store(b.connLimit(e))
			delete(next, id)
			continue
		}
		delete(b.backends, id)
		be.stop()
		be.pool.Close()
		b.setState(be, StateRemoved)
	}
	for _, e := range next {
		b.backends[e.ID] = b.add(e)
	}
	b.rebuild(time.Now())
	b.mu.Unlock()
	return nil
}

func (b *Balancer) connLimit(e Endpoint) int64 {
	if e.MaxConns > 0 {
		return int64(e.MaxConns)
	}
	return int64(b.o.MaxConns)
}

func (b *Balancer) add(e Endpoint) *Backend {
	be := &Backend{id: e.ID, rate: fadeRate(defaultDecay), stop: func() {},
		queue: &b.queue}
	if p, ok := b.o.Policy.(interface{ LatencyDecay() time.Duration }); ok {
		be.rate = fadeRate(p.LatencyDecay().Seconds())
	}
	be.ep.Store(&e)
	be.forgive()
	be.maxConns.Store(b.connLimit(e))
	be.dial = b.o.Dial
	be.pool.Init(http1.PoolOptions{Addr: e.Addr, Dial: b.o.Dial, MaxIdle: b.o.MaxIdle,
		KeepIdle: b.o.Timeouts.KeepIdle})
	if a := b.o.Adaptive; a != nil && a.PerBackend {
		be.limiter = newLimiter(*a)
		be.limiter.changed = func() {
			be.following.notify()
			b.resizeQueue()
		}
	}
	h := b.o.Health
	be.machine = health.NewMachine(health.Config{Rise: h.Rise, Fall: h.Fall, MinHold: h.MinHold})
	if b.running && b.o.SlowStart > 0 {
		be.rampFrom = time.Now()
	}
	if h.Probe != nil {
		ctx, cancel := context.WithCancel(b.ctx)
		be.stop = cancel
		target := Target{Endpoint: e, Dial: b.o.Dial, TLS: b.o.TLS}
		b.probes.Go(func() {
			health.Run(ctx, health.Schedule{Interval: h.Interval, Timeout: h.Timeout},
				func(ctx context.Context) error { return h.Probe(ctx, target) },
				func(err error, _ time.Duration) { b.observed(be, err) })
		})
	}
	return be
}

// observed takes the result of an active check.
func (b *Balancer) observed(be *Backend, err error) {
	now := time.Now()
	be.checks.Add(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := be.machine.State(); be.machine.Observe(err == nil, now) && b.backends[be.id] == be {
		if be.machine.State() == health.Down {
			b.log.Warn("check "+be.id, "lb: backend is down", "backend", be.id, "error", err)
		} else {
			b.log.Clear("check "+be.id, "lb: backend is up again", "backend", be.id)
		}
		if was == health.Down {
			be.rampFrom = now
			be.forgive()
			// checked and found well: the rest of an ejection would punish a server that was restarted
			be.ejected = false
		}
		b.rebuild(now)
	}
}

// Drain stops new picks of a backend and waits until its requests have ended or ctx has. It stays drained until
// [Balancer.Undrain] or until it leaves the pool. It returns ErrUnknownBackend, or ctx's error when requests are still
// in flight.
func (b *Balancer) Drain(ctx context.Context, id string) error {
	be, err := b.setDrained(id, true)
	if err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for be.inFlight.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("lb: draining %q with %d in flight: %w", id, be.inFlight.Load(), ctx.Err())
		}
	}
	return nil
}

// Undrain lets a drained backend take requests again, with slow start.
func (b *Balancer) Undrain(id string) error {
	_, err := b.setDrained(id, false)
	return err
}

func (b *Balancer) setDrained(id string, drained bool) (*Backend, error) {
	b.mu.Lock()
	be := b.backends[id]
	if be == nil {
		b.mu.Unlock()
		return nil, fmt.Errorf("%w %q", ErrUnknownBackend, id)
	}
	if be.drained != drained {
		now := time.Now()
		be.drained = drained
		if !drained {
			be.rampFrom = now
			be.forgive() // it may be another program by now
		}
		b.rebuild(now)
	}
	b.mu.Unlock()
	return be, nil
}

// setState changes the state of be and reports that to the hook. b.mu is held.
func (b *Balancer) setState(be *Backend, s BackendState) {
	old := BackendState(be.state.Swap(uint32(s)))
	if old != s {
		b.stateChanged(be, old, s)
	}
}

// Close stops checks and closes idle connections; requests in flight end on their own. It is idempotent.
func (b *Balancer) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.reserve = nil
	if b.ramping != nil {
		b.ramping.Stop()
	}
	for _, be := range b.backends {
		be.pool.Close()
	}
	b.snap.Store(&snapshot{closed: true})
	b.mu.Unlock()
	b.cancel()
	b.queue.wakeAll()
	b.probes.Wait()
	b.fallback.close()
	if b.prober != nil {
		b.prober.close()
	}
	return nil
}

// Validate returns the error that [New] and [Balancer.Update] would return for e.
func (e Endpoint) Validate() error {
	_, err := e.withDefaults()
	return err
}

func (e Endpoint) withDefaults() (Endpoint, error) {
	host, port, err := net.SplitHostPort(e.Addr)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 1 || n > 65535 || !httpfield.IsHost(host) ||
		host == "" || strings.ContainsAny(host, "[]") {
		return e, fmt.Errorf("field Addr %q: want host:port with a port from 1 to 65535", e.Addr)
	}
	if e.ID == "" {
		e.ID = e.Addr
	}
	switch e.Scheme = strings.ToLower(e.Scheme); e.Scheme {
	case "":
		e.Scheme = "http"
	case "http", "https", "h2c":
	default:
		return e, fmt.Errorf("field Scheme %q: want http, https or h2c", e.Scheme)
	}
	if e.Weight == 0 {
		e.Weight = 1
	}
	if !(e.Weight > 0) || math.IsInf(e.Weight, 0) {
		return e, fmt.Errorf("Weight %v: want a positive number", e.Weight)
	}
	if e.MaxConns < 0 {
		return e, fmt.Errorf("MaxConns %d: want 0 or more", e.MaxConns)
	}
	if e.Priority < 0 {
		return e, fmt.Errorf("field Priority %d: want 0 or more", e.Priority)
	}
	return e, nil
}

// ClientAddr is the address of the client of a request that came through proxies in trusted: the last hop that is not
// trusted, by X-Forwarded-For read from its end. With an empty list it is the connection's peer.
func ClientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	return clientaddr.Of(r, trusted)
}

func within(nets []netip.Prefix, a netip.Addr) bool { return clientaddr.Within(nets, a) }
