package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
)

// Hedge sends a request that is slow to answer to a second backend too, and passes on the answer that comes first (Dean
// and Barroso, "The Tail at Scale", 2013). The other attempt is cancelled. It costs one request more for each that is
// slower than the delay, and each is paid for out of Retry.Budget, so that a backend tier that is slow as a whole is
// not given more to do. A request is hedged once at most, and only when it is idempotent (Retry.Idempotent), has no
// body or one that is kept (Retry.MaxBody; RoundTripper: GetBody), is no upgrade, and its client is not bound to a
// backend by a sticky cookie. Off unless After or Quantile is set.
//
// Both attempts may be carried out, and the slow one after the client's next request: a PUT that is overtaken so undoes
// a later one. By default only safe methods are hedged.
type Hedge struct {
	After time.Duration // the least delay; with Quantile 0 the delay itself
	// the delay is this quantile of the latencies of the last half minute, such as 0.95; 0: After. Below 100 requests:
	// After, or no hedge
	Quantile float64
	Only     func(r *http.Request) bool // which of these requests; nil: GET, HEAD, OPTIONS and TRACE
}

// wants is whether a request is one of those that are to be hedged, when it may be.
func (h *Hedge) wants(r *http.Request) bool {
	if h.Only != nil {
		return h.Only(r)
	}
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "":
		return true
	}
	return false
}

// on reports whether requests are hedged at all.
func (h Hedge) on() bool { return h.After > 0 || h.Quantile > 0 }

func (h Hedge) check() error {
	if h.After < 0 || !(h.Quantile >= 0 && h.Quantile < 1) {
		return fmt.Errorf("lb: Options.Hedge: After %v, Quantile %v: want 0 or more, and a quantile below 1", h.After,
			h.Quantile)
	}
	return nil
}

// hedgeDelay is how long to wait for the first backend.
func (b *Balancer) hedgeDelay() (time.Duration, bool) {
	h := b.o.Hedge
	if h.Quantile > 0 {
		if d, ok := b.measured.quantile(h.Quantile); ok {
			return max(d, h.After), true
		}
	}
	return h.After, h.After > 0
}

// second takes a backend for a hedge, at once or not at all: what waits for a backend is no faster than the first.
func (b *Balancer) second(k Key, avoid tried, first *Backend) (Pick, bool) {
	avoid.add(first)
	s := b.snap.Load()
	if avoid.len() >= len(s.usable) {
		return Pick{}, false
	}
	if !b.budget.spend() {
		b.noRetry.Add(1)
		return Pick{}, false
	}
	be := s.take(k, &avoid)
	if be == nil {
		b.budget.refund()
		return Pick{}, false
	}
	limited := b.o.Adaptive != nil && !k.Exempt
	if limited && b.limiter != nil {
		b.limiter.force()
	}
	l := b.lease(be, avoid.len(), limited)
	l.hedge = true
	b.hedges.Add(1)
	if h := b.o.Hooks; h != nil && h.Hedge != nil {
		b.call("Hooks.Hedge", func() { h.Hedge(first, be) })
	}
	return l, true
}

// attempt sends the request to the backend that was picked, and to a second one when that is slow and the request may
// be hedged.
func (x *exchange) attempt() http1.Outcome {
	if x.hedge && !x.hedged && x.body != bodyStreamed && x.key.Sticky == "" {
		if delay, ok := x.b.hedgeDelay(); ok {
			return x.race(delay)
		}
	}
	ended := false
	defer func() {
		if !ended { // a panic of the client's ResponseWriter
			x.Pick.Cancel(Result{})
		}
	}()
	out := x.try(x.Pick.b)
	ended = true
	x.Pick.Done(x.result(out))
	return out
}

func (x *exchange) try(be *Backend) http1.Outcome {
	if be.ep.Load().Scheme == "http" {
		return x.http1(be)
	}
	return x.transport(be)
}

func (x *exchange) result(out http1.Outcome) Result {
	return Result{Err: out.Err, Status: out.Status, Latency: out.Latency, canceled: out.Client || out.Err != nil &&
		x.r.Context().Err() != nil}
}

// race makes the first attempt here and the second, after delay, on a goroutine of its own that ends before race
// returns. Each has its own copy of the exchange and its own writer; who writes a header first has the client's.
func (x *exchange) race(delay time.Duration) http1.Outcome {
	l := x.Pick
	g := &finish{w: x.w}
	first, _ := g.enter(x, l)
	var late *runner // set and read on either side of ended
	var lateOut http1.Outcome
	var crash any
	ended := make(chan struct{})
	timer := time.AfterFunc(delay, func() {
		defer close(ended)
		defer func() { crash = recover() }() // of a hook or a writer: it belongs to the request's goroutine
		l2, ok := x.b.second(x.key, x.tried, l.b)
		if !ok {
			return
		}
		if late, ok = g.enter(x, l2); !ok { // the answer has come meanwhile
			x.b.budget.refund()
			l2.Done(Result{canceled: true})
			return
		}
		lateOut = late.run()
	})
	join := sync.OnceFunc(func() {
		if !timer.Stop() {
			<-ended
		}
	})
	defer func() { g.claim(first); g.cancel(); join() }() // in this order when the first attempt panics
	out := first.run()
	join()
	if crash != nil {
		panic(crash)
	}
	if late == nil {
		return out
	}
	x.hedged = true
	if g.winner == late {
		x.b.hedgesWon.Add(1)
		return lateOut
	}
	if g.winner == nil { // both failed: a third attempt goes to neither
		x.tried.add(late.lease.b)
	}
	return out
}

// finish is the line that the attempts of one request run to.
type finish struct {
	w       http.ResponseWriter // the client's
	mu      sync.Mutex          // guards what follows
	runners []*runner
	winner  *runner
}

// runner is one attempt, and the ResponseWriter that it writes to.
type runner struct {
	g      *finish
	x      exchange
	lease  Pick
	cancel context.CancelFunc
	h      http.Header
	wrote  bool
	lost   bool
}

var errOutrun = errors.New("lb: another attempt has answered")

// enter adds an attempt; ok is false when another has an answer already.
func (g *finish) enter(x *exchange, l Pick) (*runner, bool) {
	r := &runner{g: g, x: *x, lease: l}
	ctx, cancel := context.WithCancel(x.r.Context())
	r.cancel = cancel
	r.x.r, r.x.w = x.r.WithContext(ctx), r
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.winner != nil {
		cancel()
		return nil, false
	}
	r.h = g.w.Header().Clone() // what others have set before
	if r.h == nil {
		r.h = http.Header{}
	}
	g.runners = append(g.runners, r)
	return r, true
}

// claim is whether this attempt is the one that answers.
func (g *finish) claim(r *runner) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.winner == nil {
		g.winner = r
		for _, o := range g.runners {
			if o != r {
				o.cancel()
			}
		}
	}
	return g.winner == r
}

func (g *finish) cancel() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.runners {
		r.cancel()
	}
}

func (g *finish) outran(r *runner) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.winner != nil && g.winner != r
}

// run makes the attempt and ends its lease.
func (r *runner) run() http1.Outcome {
	start := time.Now()
	ended := false
	defer func() {
		if !ended { // a panic
			r.lease.Done(Result{canceled: true})
		}
	}()
	out := r.x.try(r.lease.b)
	ended = true
	if r.g.outran(r) {
		r.lease.Done(Result{outrun: true, Latency: time.Since(start)})
		return out
	}
	if r.wrote {
		maps.Copy(r.g.w.Header(), r.h) // trailers
	}
	res := r.x.result(out)
	r.lease.Done(res)
	return out
}

func (r *runner) Header() http.Header { return r.h }

func (r *runner) WriteHeader(status int) {
	if r.lost = !r.g.claim(r); r.lost {
		return
	}
	r.wrote = true
	h := r.g.w.Header()
	clear(h)
	maps.Copy(h, r.h)
	r.g.w.WriteHeader(status)
}

func (r *runner) Write(p []byte) (int, error) {
	if r.lost {
		return 0, errOutrun
	}
	return r.g.w.Write(p)
}

func (r *runner) ReadFrom(src io.Reader) (int64, error) {
	if r.lost {
		return 0, errOutrun
	}
	if rf, ok := r.g.w.(io.ReaderFrom); ok {
		return rf.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{r.g.w}, src)
}

func (r *runner) Flush() {
	if r.wrote {
		http.NewResponseController(r.g.w).Flush()
	}
}
