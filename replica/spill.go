package replica

import (
	"context"
	"time"
)

// spill caps the reads that run on the primary in place of replicas. A nil channel means no cap.
type spill struct {
	places chan struct{}
	wait   time.Duration
}

func (s *spill) enter(ctx context.Context) error {
	if s.places == nil {
		return nil
	}
	select {
	case s.places <- struct{}{}:
		return nil
	default:
	}
	if s.wait <= 0 {
		return ErrSpillLimit
	}
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case s.places <- struct{}{}:
		return nil
	case <-t.C:
		return ErrSpillLimit
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *spill) leave() {
	if s.places != nil {
		<-s.places
	}
}
