// Package backoff computes how long to wait before the next attempt: exponential growth with full jitter, so that
// clients which failed together do not return together (Brooker, "Exponential Backoff And Jitter", AWS 2015).
package backoff

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
)

// Policy describes growing delays. The zero value is ready: 50 ms doubling up to 5 s, with full jitter.
type Policy struct {
	// Base is the upper bound of the first delay. Zero means 50 ms.
	Base time.Duration
	// Max caps every delay. Zero means 5 s.
	Max time.Duration
	// Factor is the growth per attempt. Values below 1 mean 2.
	Factor float64
	// NoJitter returns the bound itself instead of a uniform draw from (0, bound].
	NoJitter bool
}

// Delay returns the wait before attempt number attempt+1; attempt counts from 0. It is safe for concurrent use and
// never negative, never above Max, whatever the attempt.
func (p Policy) Delay(attempt int) time.Duration {
	if p.Base <= 0 {
		p.Base = 50 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 5 * time.Second
	}
	if p.Factor < 1 {
		p.Factor = 2
	}
	bound := float64(p.Base) * math.Pow(p.Factor, float64(max(attempt, 0)))
	d := p.Max
	if bound < float64(p.Max) { // also false for +Inf
		d = time.Duration(bound)
	}
	if p.NoJitter {
		return d
	}
	return 1 + rand.N(d)
}

// Sleep waits for d or until ctx ends, and returns the context's error in that case.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
