package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
)

// HealthOptions configure Health. The zero value is ready.
type HealthOptions struct {
	// Timeout bounds one check. Zero means 1 s.
	Timeout time.Duration
	// Cache answers from the last result for this long, so that probes of many balancers cost one check. Zero means
	// 1 s.
	Cache time.Duration
}

// Health answers the three questions of a platform: has it started, is it alive, may it get traffic. Its methods are
// safe for concurrent use. It starts no goroutine that outlives a request, unless a check hangs.
type Health struct {
	o        HealthOptions
	started  atomic.Bool
	draining atomic.Bool

	mu     sync.Mutex // guards what follows; never held while a check runs
	checks map[string]*healthCheck
	run    *healthRun // at present
	last   *healthRun
}

// healthCheck is one dependency. A check that hangs is not called again before it has returned.
type healthCheck struct {
	check func(context.Context) error
	busy  atomic.Bool
}

// healthRun is one run of all checks, which all who ask at that time share.
type healthRun struct {
	done   chan struct{}
	at     time.Time         // of its end
	failed map[string]string // by name; set before done is closed
}

// NewHealth returns a Health that is not started yet.
func NewHealth(o HealthOptions) *Health {
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	if o.Cache <= 0 {
		o.Cache = time.Second
	}
	return &Health{o: o, checks: map[string]*healthCheck{}}
}

// Check adds a dependency that readiness needs, such as a ping of a database, or replaces the one of that name. The
// check runs in a goroutine of its own; one that ignores the end of its context, or panics, has failed.
func (h *Health) Check(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = &healthCheck{check: check}
}

// Started turns start-up and readiness on.
func (h *Health) Started() { h.started.Store(true) }

// Drain turns readiness off, the first step of a shutdown; liveness stays.
func (h *Health) Drain() { h.draining.Store(true) }

// Undrain takes Drain back.
func (h *Health) Undrain() { h.draining.Store(false) }

// Live answers 200 as long as the process can answer: a failing dependency must not make the platform kill it.
func (h *Health) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, "alive", nil) })
}

// Startup answers 200 once Started was called, 503 before.
func (h *Health) Startup() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.started.Load() {
			answer(w, http.StatusOK, "started", nil)
			return
		}
		answer(w, http.StatusServiceUnavailable, "starting", nil)
	})
}

// Ready answers 200 when it has started, is not draining and all checks pass; else 503. The body names the failed
// checks but not their errors, which may hold secrets; Failures returns those.
func (h *Health) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case h.draining.Load():
			answer(w, http.StatusServiceUnavailable, "draining", nil)
			return
		case !h.started.Load():
			answer(w, http.StatusServiceUnavailable, "starting", nil)
			return
		}
		var failed []string
		for name := range h.Failures(r.Context()) {
			failed = append(failed, name)
		}
		if failed != nil {
			answer(w, http.StatusServiceUnavailable, "not ready", failed)
			return
		}
		answer(w, http.StatusOK, "ready", nil)
	})
}

func answer(w http.ResponseWriter, status int, state string, failed []string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(struct {
		State  string   `json:"state"`
		Failed []string `json:"failed,omitempty"`
	}{state, failed})
}

// Failures runs the checks at the same time, or answers from the cache, and returns the failed ones with their errors.
// All who call it at the same time share one run, which no caller's leaving ends: of ctx only the values are used.
func (h *Health) Failures(ctx context.Context) map[string]string {
	h.mu.Lock()
	if h.last != nil && time.Since(h.last.at) < h.o.Cache {
		defer h.mu.Unlock()
		return maps.Clone(h.last.failed)
	}
	r := h.run
	if r == nil {
		r = &healthRun{done: make(chan struct{})}
		h.run = r
		go h.probe(context.WithoutCancel(ctx), r, maps.Clone(h.checks))
	}
	h.mu.Unlock()
	<-r.done
	return maps.Clone(r.failed)
}

// probe runs the checks and ends the run.
func (h *Health) probe(ctx context.Context, r *healthRun, checks map[string]*healthCheck) {
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	var mu sync.Mutex // guards failed
	failed := map[string]string{}
	var all sync.WaitGroup
	for name, c := range checks {
		all.Go(func() {
			if err := c.probe(ctx); err != nil {
				mu.Lock()
				failed[name] = err.Error()
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r.at, r.failed = time.Now(), failed
	h.mu.Lock()
	h.last, h.run = r, nil
	h.mu.Unlock()
	close(r.done)
}

var errNoAnswer = errors.New("no answer in time")

// probe runs one check, at the longest until ctx ends.
func (c *healthCheck) probe(ctx context.Context) error {
	if !c.busy.CompareAndSwap(false, true) {
		return errNoAnswer
	}
	left, err := usercode.Within(ctx, c.check)
	select {
	case <-left:
		c.busy.Store(false)
	default:
		go func() {
			<-left
			c.busy.Store(false)
		}()
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return errNoAnswer
	}
	return err
}
