package replica

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrLeaseHeld: somebody else holds the lease.
var ErrLeaseHeld = errors.New("replica: lease is held by somebody else")

// MemoryLease is a Lease for a single process: right when only this process may promote, and for tests. Several
// Clusters may share it.
func MemoryLease() Lease { return &memoryLease{held: map[string]memoryHold{}} }

type memoryLease struct {
	mu    sync.Mutex
	epoch uint64
	held  map[string]memoryHold
}

type memoryHold struct {
	epoch uint64
	until time.Time
}

func (l *memoryLease) Acquire(_ context.Context, key string, ttl time.Duration) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h, ok := l.held[key]; ok && time.Now().Before(h.until) {
		return 0, ErrLeaseHeld
	}
	l.epoch++
	l.held[key] = memoryHold{l.epoch, time.Now().Add(ttl)}
	return l.epoch, nil
}

func (l *memoryLease) Release(_ context.Context, key string, epoch uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key].epoch == epoch {
		delete(l.held, key)
	}
	return nil
}
