package health

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Probe asks once whether something works. It must return when ctx ends.
type Probe func(context.Context) error

// Schedule says how often a probe runs. The zero value is ready.
type Schedule struct {
	// Interval is the time from the start of one probe to the start of the next. Zero means 1 s.
	Interval time.Duration
	// Timeout bounds one probe. Zero means the interval, at most 1 s.
	Timeout time.Duration
	// Jitter spreads each interval by up to this share either way, so that many probers do not beat together.
	// Zero means 0.1; negative means none.
	Jitter float64
}

func (s Schedule) withDefaults() Schedule {
	if s.Interval <= 0 {
		s.Interval = time.Second
	}
	if s.Timeout <= 0 {
		s.Timeout = min(s.Interval, time.Second)
	}
	if s.Jitter == 0 {
		s.Jitter = 0.1
	}
	s.Jitter = min(max(s.Jitter, 0), 1)
	return s
}

// Run probes until ctx ends, in the calling goroutine, the first time at once. report gets each result and how long it
// took; a panic in the probe is a failed probe. A probe cut short because ctx ended is not reported.
func Run(ctx context.Context, s Schedule, p Probe, report func(err error, took time.Duration)) {
	s = s.withDefaults()
	for ctx.Err() == nil {
		start := time.Now()
		err := once(ctx, s.Timeout, p)
		if ctx.Err() != nil {
			return
		}
		report(err, time.Since(start))
		next := time.Duration(float64(s.Interval) * (1 + s.Jitter*(2*rand.Float64()-1)))
		if backoff.Sleep(ctx, max(next-time.Since(start), time.Millisecond)) != nil {
			return
		}
	}
}

func once(ctx context.Context, timeout time.Duration, p Probe) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("health: probe panicked: %v", v)
		}
	}()
	if err = p(ctx); err == nil {
		err = ctx.Err() // an answer after the deadline is no answer
	}
	return err
}
