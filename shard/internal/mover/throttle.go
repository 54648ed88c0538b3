package mover

import (
	"context"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// throttle limits rows per second; 0: no limit.
type throttle struct{ rowsPerSecond int }

// wait sleeps until so many rows since began are within the limit.
func (t throttle) wait(ctx context.Context, rows int, began time.Time) error {
	if t.rowsPerSecond <= 0 {
		return ctx.Err()
	}
	return backoff.Sleep(ctx, time.Duration(rows)*time.Second/time.Duration(t.rowsPerSecond)-time.Since(began))
}
