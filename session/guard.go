package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// guard keeps requests from waiting in line for a store that has stopped answering: after a few failures in a row only
// one operation per interval is let through to try, and the others fail at once.
type guard struct {
	failures atomic.Int32 // in a row
	retry    atomic.Int64 // Unix nanoseconds from which on one operation may try
}

const (
	guardFailures = 5
	guardInterval = 100 * time.Millisecond
)

var errStoreDown = errors.New("the store has failed several times in a row")

func (g *guard) allow() bool {
	if g.failures.Load() < guardFailures {
		return true
	}
	now, at := time.Now().UnixNano(), g.retry.Load()
	return now >= at && g.retry.CompareAndSwap(at, now+int64(guardInterval))
}

func (g *guard) ok() {
	if g.failures.Load() != 0 {
		g.failures.Store(0)
	}
}

func (g *guard) fail() {
	if g.failures.Add(1) >= guardFailures {
		g.failures.Store(guardFailures)
		g.retry.Store(time.Now().Add(guardInterval).UnixNano())
	}
}

func noCancel() {}

// begin opens one operation on the store: bounded in time, or refused with ErrUnavailable when the store is known to be
// down.
func (s *Sessions[T]) begin(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	if s.local {
		return ctx, noCancel, nil
	}
	if !s.guard.allow() {
		return nil, nil, s.failed(ctx, op, errStoreDown)
	}
	sctx, cancel := context.WithTimeout(ctx, s.o.StoreTimeout)
	return sctx, cancel, nil
}

// ended closes it: answers of the store stay as they are, failures become ErrUnavailable.
func (s *Sessions[T]) ended(ctx context.Context, op string, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, ErrExists):
		s.guard.ok()
		return err
	case ctx.Err() == nil: // the request's own end says nothing about the store
		s.guard.fail()
	}
	return s.failed(ctx, op, err)
}

func (s *Sessions[T]) failed(ctx context.Context, op string, err error) error {
	s.stats.storeErrors.Add(1)
	if h := s.o.Hooks; h != nil && h.StoreError != nil {
		h.StoreError(ctx, op, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, op, err)
}
