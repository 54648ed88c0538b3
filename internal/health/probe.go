package health

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/usercode"
)

// Probe asks once whether something works. It should return when ctx ends; Run does not wait for one that does not.
type Probe func(context.Context) error

// errRunning is the result of a probe that is due while the one before has not returned.
var errRunning = errors.New("health: the last probe has not returned")

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

// Run probes until ctx ends, the first time at once, and calls report in the calling goroutine with each result and how
// long it took. It runs p on goroutines of its own, one at a time. A panic of p is a failed probe, and so is
// runtime.Goexit. A p that ignores its context has failed at its deadline, and again at each probe that is due before
// it returns; Run does not start a second one beside it, and does not wait for it when ctx ends. A probe that is cut
// short because ctx ended is not reported.
func Run(ctx context.Context, s Schedule, p Probe, report func(err error, took time.Duration)) {
	s = s.withDefaults()
	var returned <-chan struct{} // closed when the last probe has returned; nil: there was none
	for ctx.Err() == nil {
		start := time.Now()
		err := errRunning
		if !running(returned) {
			returned, err = once(ctx, s.Timeout, p)
		}
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

// running reports whether the probe with this channel runs still.
func running(returned <-chan struct{}) bool {
	if returned == nil {
		return false
	}
	select {
	case <-returned:
		return false
	default:
		return true
	}
}

// once runs p within timeout. returned is closed when p has returned, which may be later.
func once(ctx context.Context, timeout time.Duration, p Probe) (returned <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	returned, err = usercode.Within(ctx, p)
	if err == nil {
		err = ctx.Err() // an answer after the deadline is no answer
	}
	return returned, err
}
