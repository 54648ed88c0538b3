package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// HealthOptions configure Health. The zero value is ready.
type HealthOptions struct {
	// Timeout bounds one check. Zero means 1 s.
	Timeout time.Duration
	// Cache answers from the last result for this long, so that probes of many balancers cost one check. Zero means 1
	// s.
	Cache time.Duration
}

// Health answers the three questions of a platform: has it started, is it alive, may it get traffic. Its methods are
// safe for concurrent use. It starts no goroutine that outlives a request.
type Health struct {
	o        HealthOptions
	started  atomic.Bool
	draining atomic.Bool

	mu     sync.Mutex // one run of the checks at a time
	checks map[string]func(context.Context) error
	at     time.Time
	result map[string]string
}

// NewHealth returns a Health that is not started yet.
func NewHealth(o HealthOptions) *Health {
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	if o.Cache <= 0 {
		o.Cache = time.Second
	}
	return &Health{o: o, checks: map[string]func(context.Context) error{}}
}

// Check adds a dependency that readiness needs: a ping of a database. It must return when its context ends.
func (h *Health) Check(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

// Started turns start-up and readiness on.
func (h *Health) Started() { h.started.Store(true) }

// Drain turns readiness off for good, the first step of a shutdown; liveness stays.
func (h *Health) Drain() { h.draining.Store(true) }

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
func (h *Health) Failures(ctx context.Context) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.result != nil && time.Since(h.at) < h.o.Cache {
		return h.result
	}
	// One caller's leaving must not fail the check for the others who share its result.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.o.Timeout)
	defer cancel()
	type outcome struct {
		name string
		err  error
	}
	results := make(chan outcome, len(h.checks))
	failed := map[string]string{}
	for name, check := range h.checks {
		failed[name] = "no answer in time"
		go func() { results <- outcome{name, safely(ctx, check)} }()
	}
	for range h.checks {
		select {
		case o := <-results:
			delete(failed, o.name)
			if o.err != nil {
				failed[o.name] = o.err.Error()
			}
			continue
		case <-ctx.Done(): // a check that does not mind its context holds nobody up
		}
		break
	}
	h.at, h.result = time.Now(), failed
	return failed
}

func safely(ctx context.Context, check func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return check(ctx)
}
