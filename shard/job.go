package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// MoveOptions configure a job.
type MoveOptions struct {
	// Group is how many slots of one source and target are handed over together. 0: 1024.
	Group int
	// Chunk is the number of rows copied in one transaction. 0: 500.
	Chunk int
	// RowsPerSecond throttles the copy and the cleanup. 0: no throttle.
	RowsPerSecond int
	// LockTimeout bounds how long a fence may make writers wait before it gives way and tries again. 0: 200 ms.
	LockTimeout time.Duration
	// Reversible keeps the sources of handed-over slots up to date, so that the whole job can be rolled back: after the
	// last hand-over it stays in PhaseHold until Job.Complete or Job.Rollback decides. What that costs is the capture
	// of changed keys on the targets.
	Reversible bool
	// Progress is called after every step.
	Progress func(Progress)

	// step is called around every step; an error ends the job there as a crash would. For tests.
	step func(name string) error
}

// Phase of a group of slots in a job. The order is the order of the constants.
type Phase string

const (
	PhasePin     Phase = "pin"     // of Cluster.Pin: the key's rows get a slot of their own, where they are
	PhasePrepare Phase = "prepare" // target refuses clients, knows the mover
	PhaseCapture Phase = "capture" // source notes changed keys
	PhaseCopy    Phase = "copy"
	PhaseCatchup Phase = "catchup"
	PhaseVerify  Phase = "verify"
	PhaseFence   Phase = "fence" // source refuses writes
	PhaseDrain   Phase = "drain"
	PhaseCommit  Phase = "commit" // map changed: the point of no return
	PhaseGone    Phase = "gone"   // source refuses reads of Tx too
	PhaseOwned   Phase = "owned"  // target accepts writes
	PhaseHold    Phase = "hold"   // of a reversible job, after the last hand-over: until Complete or Rollback
	PhaseGrace   Phase = "grace"  // of the job, after the last hand-over: until nobody acts on an old map any more
	PhaseCleanup Phase = "cleanup"
	PhaseDone    Phase = "done"
)

// Progress of a job.
type Progress struct {
	Phase      Phase
	Group      int // from 1
	Groups     int
	SlotsMoved int
	Slots      int
	RowsCopied int64
	RowsTotal  int64 // as planned; 0 when unknown
	Elapsed    time.Duration
	ETA        time.Duration // 0 when unknown
	// Err is why the present step is being repeated; nil when nothing is in the way.
	Err error
	// WritePauses has for each group handed over how long its slots refused writes.
	WritePauses []time.Duration
}

// JobState is the stored form of a Job; every process that has the store can resume it.
type JobState struct {
	ID    uint64     `json:"id"`
	Token uint64     `json:"token"` // of the mover that works on it
	Moves []SlotMove `json:"moves"` // all, by source and target
	Done  int        `json:"done"`  // moves handed over
	Size  int        `json:"size"`  // moves of the current group
	// Announced is how many of the moves processes must reckon with: those of the current group and the next.
	Announced int `json:"announced"`
	Cleaned   int `json:"cleaned"` // moves whose rows the source has no more
	// Reversible: the targets capture. Reverse: the job is the way back of one that was; the rows are there already.
	Reversible bool `json:"reversible,omitempty"`
	Reverse    bool `json:"reverse,omitempty"`
	// Phase of the current group: prepare, copy, fence or gone; then of the job: hold, grace or cleanup; the others are
	// parts of these. Repeating a phase from its start does no harm.
	Phase Phase `json:"phase"`
	Rows  int64 `json:"rows,omitempty"`
	// Pin is the key that a pin job gives a slot.
	Pin *PinState `json:"pin,omitempty"`
}

// PinState is a pin that is not in the map yet.
type PinState struct {
	Key  string   `json:"key"` // as in State.Pins
	By   []string `json:"by"`
	From ID       `json:"from"`
	Old  Slot     `json:"old"`
	Slot Slot     `json:"slot"`
}

// Job is a move in progress.
type Job struct {
	c      *Cluster
	opts   MoveOptions
	token  uint64
	cancel context.CancelCauseFunc
	ctx    context.Context
	done   chan struct{}
	hold   chan struct{} // closed when the job waits for Complete or Rollback
	err    error         // set before done is closed

	mu    sync.Mutex // guards prog
	prog  Progress
	began time.Time

	// of the current group; only the mover's goroutine uses them
	verified  map[Slot]bool
	forgotten int // dirty entries since the last tidy
	fencedAt  time.Time

	// only the mover's goroutine uses them
	heard   []announcement
	phase   Phase     // as stored, as far as this mover knows
	entered time.Time // that phase, or this mover's work in it
	told    bool      // the store was asked to hand the group over, and may have
}

// announcement: at this time the map had announced so many of the job's moves.
type announcement struct {
	moves int
	at    time.Time
}

var errPaused = errors.New("shard: job paused")

func (o MoveOptions) withDefaults() (MoveOptions, error) {
	for name, v := range map[string]int{"Group": o.Group, "Chunk": o.Chunk, "RowsPerSecond": o.RowsPerSecond} {
		if v < 0 {
			return o, fmt.Errorf("shard: MoveOptions.%s is negative", name)
		}
	}
	if o.Group == 0 {
		o.Group = 1024
	}
	if o.Chunk == 0 {
		o.Chunk = 500
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = 200 * time.Millisecond
	}
	return o, nil
}

// Move begins a job. It returns when the job is stored; the work goes on in the background. ErrMoving when there is one
// already, ErrConflict when the map is not the one that the plan was made from.
func (c *Cluster) Move(ctx context.Context, p Plan, o MoveOptions) (*Job, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.opts.Dialect == nil || len(c.opts.Tables) == 0 {
		return nil, fmt.Errorf("%w: Options.Dialect and Options.Tables are needed to move rows", ErrPreflight)
	}
	if len(p.Moves) == 0 {
		return nil, fmt.Errorf("%w: the plan is empty", ErrPreflight)
	}
	st, err := c.store.Load(ctx)
	if err != nil {
		return nil, err
	}
	if st.Job != nil {
		return nil, ErrMoving
	}
	if st.Epoch != p.Epoch {
		return nil, fmt.Errorf("%w: the plan is for epoch %d, the map is at %d", ErrConflict, p.Epoch, st.Epoch)
	}
	next := st.clone()
	next.Epoch++
	next.Token++
	next.Job = &JobState{ID: next.Token, Token: next.Token, Moves: p.Moves, Phase: PhasePrepare, Rows: p.Rows,
		Reversible: o.Reversible}
	next.Job.nextGroup(o.Group)
	asked := time.Now()
	if err := c.store.CompareAndSwap(ctx, st.Epoch, next); err != nil {
		return nil, err
	}
	return c.start(next, o, asked)
}

// Resume takes over the stored job of a mover that died, with a higher token, or returns nil when there is none. A
// mover that was only thought dead loses: every one of its transactions checks the token.
func (c *Cluster) Resume(ctx context.Context, o MoveOptions) (*Job, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	for {
		st, err := c.store.Load(ctx)
		if err != nil {
			return nil, err
		}
		if st.Job == nil {
			return nil, nil
		}
		next := st.clone()
		next.Epoch++
		next.Token++
		next.Job.Token = next.Token
		asked := time.Now()
		if err := c.store.CompareAndSwap(ctx, st.Epoch, next); errors.Is(err, ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		return c.start(next, o, asked)
	}
}

func (c *Cluster) start(st *State, o MoveOptions, asked time.Time) (*Job, error) {
	if err := c.install(st, asked); err != nil {
		return nil, err
	}
	j := c.mover(st, o)
	j.done, j.hold = make(chan struct{}), make(chan struct{})
	j.prog = Progress{Phase: st.Job.Phase, Slots: len(st.Job.Moves), SlotsMoved: st.Job.Done, RowsTotal: st.Job.Rows}
	for i := 0; i < len(st.Job.Moves); i += groupSize(st.Job.Moves[i:], o.Group) {
		j.prog.Groups++
		if i < st.Job.Done {
			j.prog.Group++
		}
	}
	j.ctx, j.cancel = context.WithCancelCause(c.ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	c.wg.Go(func() {
		j.err = j.run()
		j.cancel(nil)
		close(j.done)
	})
	return j, nil
}

// mover that goes on with the stored job. What its predecessor had announced counts from now on only: it does not know
// since when.
func (c *Cluster) mover(st *State, o MoveOptions) *Job {
	now := time.Now()
	return &Job{c: c, opts: o, token: st.Token, began: now, entered: now,
		heard: []announcement{{st.Job.Announced, now}}}
}

// nextGroup is called when the moves before Done are handed over.
func (j *JobState) nextGroup(max int) {
	j.Size = groupSize(j.Moves[j.Done:], max)
	next := j.Done + j.Size
	j.Announced = next + groupSize(j.Moves[next:], max)
}

// groupSize is the number of moves at the head that share source and target, at most max.
func groupSize(moves []SlotMove, max int) int {
	n := 0
	for n < len(moves) && n < max && moves[n].From == moves[0].From && moves[n].To == moves[0].To {
		n++
	}
	return n
}

// Wait until the job is done or failed. A failed job stays stored and can be resumed.
func (j *Job) Wait(ctx context.Context) error {
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitHold waits until all slots of a reversible job are handed over. It returns an error when the job ended instead.
func (j *Job) WaitHold(ctx context.Context) error {
	select {
	case <-j.hold:
		return nil
	case <-j.done:
		return cmp.Or(j.err, errors.New("shard: the job is done; there is nothing to hold"))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status of the job.
func (j *Job) Status() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.prog
	p.WritePauses = append([]time.Duration(nil), p.WritePauses...)
	p.Elapsed = time.Since(j.began)
	if p.RowsTotal > 0 && p.RowsCopied > 0 && p.RowsCopied < p.RowsTotal {
		p.ETA = time.Duration(float64(p.Elapsed) / float64(p.RowsCopied) * float64(p.RowsTotal-p.RowsCopied))
	}
	return p
}

// Pause stops the job; Resume of the cluster goes on where it was.
func (j *Job) Pause() error {
	j.cancel(errPaused)
	<-j.done
	return nil
}

func (j *Job) note(change func(*Progress)) {
	j.mu.Lock()
	before := j.prog.Phase
	change(&j.prog)
	entered := j.prog.Phase != before
	j.mu.Unlock()
	if h := j.c.opts.Hooks; entered && h != nil && h.Phase != nil {
		h.Phase(j.Status())
	}
	if j.opts.Progress != nil {
		j.opts.Progress(j.Status())
	}
}
