// Package discover keeps a balancer's endpoints equal to what a directory says: DNS, SRV records, a file, or a function
// of your own.
//
//	r, err := discover.New(b, discover.DNS(nil, "web.internal", 8080), discover.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	go r.Run(ctx)
package discover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/lb"
)

// Source finds the endpoints of the moment. It should return when ctx ends. A Source that does not, and one that
// panics, counts as failed; it is not called again before it has returned.
type Source func(ctx context.Context) ([]lb.Endpoint, error)

// Target is what a [Refresher] updates: a *lb.Balancer.
type Target interface {
	Update([]lb.Endpoint) error
}

// Options configure a [Refresher]. The zero value of every field is a good default.
type Options struct {
	// Interval is the time between two calls of the source. Zero means 5 s.
	Interval time.Duration
	// Timeout bounds one call of the source. Zero means the larger of Interval and 5 s.
	Timeout time.Duration
	// Logger gets a warning, at most once a minute, while the source fails. Nil means slog.Default.
	Logger *slog.Logger
}

// Stats are the counters of a [Refresher].
type Stats struct {
	Updates       uint64 `metric:"discovery_updates_total,counter,Changes of the endpoints"`
	Failures      uint64 `metric:"discovery_failures_total,counter,Calls of the source that failed or found nothing"`
	LastError     string
	LastErrorTime time.Time
}

// Refresher calls a source at intervals and updates a balancer. It is safe for concurrent use.
type Refresher struct {
	target   Target
	source   Source
	o        Options
	log      *warn.Log
	updates  atomic.Uint64
	failures warn.Tally
}

// New returns a Refresher, which does nothing before Run. Invalid options are an error that names the field.
func New(target Target, source Source, o Options) (*Refresher, error) {
	switch {
	case target == nil:
		return nil, errors.New("discover: target is nil")
	case source == nil:
		return nil, errors.New("discover: source is nil")
	case o.Interval < 0 || o.Timeout < 0:
		return nil, fmt.Errorf("discover: Options.Interval %v, Timeout %v: want 0 or more", o.Interval, o.Timeout)
	}
	if o.Interval == 0 {
		o.Interval = 5 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = max(o.Interval, 5*time.Second)
	}
	return &Refresher{target: target, source: source, o: o, log: warn.New(o.Logger)}, nil
}

// Run calls the source at once and then each interval, until ctx ends (it returns ctx's error) or the balancer is
// closed (lb.ErrClosed). Failures and an empty list leave the endpoints as they are: a broken directory is more likely
// than a pool that is empty on purpose. Run it on a goroutine of your own, once.
func (r *Refresher) Run(ctx context.Context) error {
	tick := time.NewTicker(r.o.Interval)
	defer tick.Stop()
	var last []lb.Endpoint
	var running <-chan struct{} // closed when the last call of the source has returned
	for {
		var found []lb.Endpoint
		var err error
		found, running, err = r.find(ctx, running)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && len(found) == 0:
			err = errors.New("discover: the source found no endpoint")
		case err == nil && !slices.Equal(found, last):
			if err = r.target.Update(found); err == nil {
				r.updates.Add(1)
				last = found
			}
		}
		if errors.Is(err, lb.ErrClosed) {
			return err
		}
		if err != nil {
			r.failures.Add(err)
			r.log.Warn("source", "lb: discovery failed, the endpoints stay as they are", "error", err)
		} else {
			r.log.Clear("source", "lb: discovery works again")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// find calls the source, unless its last call still runs, and waits for it no longer than Timeout. The result belongs
// to the caller: a source may fill the same slice again.
func (r *Refresher) find(ctx context.Context, running <-chan struct{}) ([]lb.Endpoint, <-chan struct{}, error) {
	if running != nil {
		select {
		case <-running:
		default:
			return nil, running, errors.New("discover: the source has not returned yet")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	found := make(chan []lb.Endpoint, 1)
	left, err := usercode.Within(ctx, func(ctx context.Context) error {
		es, err := r.source(ctx)
		found <- slices.Clone(es)
		return err
	})
	if err != nil {
		return nil, left, err
	}
	return <-found, left, nil
}

// Stats returns the counters and the last failure. It is safe at any time.
func (r *Refresher) Stats() Stats {
	s := Stats{Updates: r.updates.Load()}
	s.Failures, s.LastError, s.LastErrorTime = r.failures.Load()
	return s
}
