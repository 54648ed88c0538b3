package mover

import (
	"sync"
	"time"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Progress of a job. Package shard documents the fields.
type Progress struct {
	Phase       stored.Phase
	Group       int // from 1
	Groups      int
	SlotsMoved  int
	Slots       int
	RowsCopied  int64
	RowsTotal   int64
	Elapsed     time.Duration
	ETA         time.Duration
	Err         error
	WritePauses []time.Duration
}

// progress is safe for concurrent use.
type progress struct {
	began           time.Time
	onStep, onPhase func(Progress)

	mu  sync.Mutex // guards now
	now Progress
}

func newProgress(js *stored.Job, o Options) *progress {
	p := &progress{began: time.Now(), onStep: o.Progress, onPhase: o.Phase}
	p.now = Progress{Phase: js.Phase, Slots: len(js.Moves), SlotsMoved: js.Done, RowsTotal: js.Rows}
	for i := 0; i < len(js.Moves); i += stored.GroupSize(js.Moves[i:], o.Group) {
		p.now.Groups++
		if i < js.Done {
			p.now.Group++
		}
	}
	return p
}

func (p *progress) status() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.now
	s.WritePauses = append([]time.Duration(nil), s.WritePauses...)
	s.Elapsed = time.Since(p.began)
	if s.RowsTotal > 0 && s.RowsCopied > 0 && s.RowsCopied < s.RowsTotal {
		s.ETA = time.Duration(float64(s.Elapsed) / float64(s.RowsCopied) * float64(s.RowsTotal-s.RowsCopied))
	}
	return s
}

// change changes the figures and calls the callbacks without the lock.
func (p *progress) change(f func(*Progress)) {
	p.mu.Lock()
	before := p.now.Phase
	f(&p.now)
	entered := p.now.Phase != before
	p.mu.Unlock()
	if entered && p.onPhase != nil {
		p.onPhase(p.status())
	}
	if p.onStep != nil {
		p.onStep(p.status())
	}
}
