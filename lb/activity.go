package lb

import (
	"sync/atomic"
	"time"
)

// activity is when bytes last moved in either direction of a tunnel.
type activity struct{ last atomic.Int64 }

func (a *activity) mark() { a.last.Store(int64(time.Since(began))) }

func (a *activity) within(d time.Duration) bool {
	return time.Since(began)-time.Duration(a.last.Load()) < d
}
