package shard

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// MoveOptions configure a job.
type MoveOptions struct {
	// Group is how many slots of one source and target are handed over together. Zero means 1024.
	Group int
	// Chunk is the number of rows copied in one transaction. Zero means 500.
	Chunk int
	// RowsPerSecond throttles the copy and the cleanup. Zero means no throttle.
	RowsPerSecond int
	// LockTimeout bounds how long a fence may make writers wait before it lets them in and tries again. Zero means
	// 200 ms.
	LockTimeout time.Duration
	// Reversible keeps the sources of handed-over slots up to date, so that the whole job can be rolled back: after the
	// last hand-over it stays in phase "hold" until Job.Complete or Job.Rollback. What that costs is the capture of
	// changed keys on the targets.
	Reversible bool
	// Progress is called after steps, one call at a time, on a goroutine of its own: it does not hold up the job, and
	// may call any method of the Job and the Cluster. The last calls may come after Wait has returned. Calls are left
	// out while it is 1024 behind.
	Progress func(Progress)

	// step is called around every step. An error ends the job there as a crash would. For tests.
	step func(name string) error
	// noJitter makes a simulation deterministic. For tests.
	noJitter bool
}

// Phase is where a job stands. A group of slots passes through "prepare", "capture", "copy", "catchup", "verify",
// "fence" (the source refuses writes), "drain", "commit" (ends with the change of the map, the point of no return),
// "gone" (the source refuses reads of Tx too) and "owned" (the target accepts writes). After the last group the job is
// in "hold" if it is reversible, then in "grace" (until no process acts on an old map), "cleanup" and "done". A pin
// begins with "pin".
type Phase string

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

func progressOf(p mover.Progress) Progress {
	return Progress{Phase: Phase(p.Phase), Group: p.Group, Groups: p.Groups, SlotsMoved: p.SlotsMoved, Slots: p.Slots,
		RowsCopied: p.RowsCopied, RowsTotal: p.RowsTotal, Elapsed: p.Elapsed, ETA: p.ETA, Err: p.Err,
		WritePauses: p.WritePauses}
}

func (o MoveOptions) withDefaults() (MoveOptions, error) {
	for name, v := range map[string]int{"Group": o.Group, "Chunk": o.Chunk, "RowsPerSecond": o.RowsPerSecond} {
		if v < 0 {
			return o, fmt.Errorf("shard: MoveOptions.%s is negative", name)
		}
	}
	o.Group = cmp.Or(o.Group, 1024)
	o.Chunk = cmp.Or(o.Chunk, 500)
	if o.LockTimeout < 0 {
		return o, fmt.Errorf("shard: MoveOptions.LockTimeout %v is negative", o.LockTimeout)
	}
	o.LockTimeout = cmp.Or(o.LockTimeout, defaultLockTimeout)
	return o, nil
}

// moverOptions are the options of a job as package mover has them.
func (c *Cluster) moverOptions(o MoveOptions) mover.Options {
	m := mover.Options{Dialect: c.db, Tables: c.opts.specs(), Group: o.Group, Chunk: o.Chunk,
		RowsPerSecond: o.RowsPerSecond, LockTimeout: o.LockTimeout, Step: o.step, NoJitter: o.noJitter}
	if f := o.Progress; f != nil {
		calls := &usercode.Serial{Failed: c.hookFailed}
		m.Progress = func(p mover.Progress) { c.call(calls, func() { f(progressOf(p)) }) }
	}
	if h := c.opts.Hooks; h != nil && h.Phase != nil {
		m.Phase = func(p mover.Progress) { c.call(&c.hooks, func() { h.Phase(progressOf(p)) }) }
	}
	m.Failed = func(err error) {
		c.jobErrors.Add(err)
		c.warn.Warn("job", "shard: a step of the move failed", "err", err)
	}
	return m
}

// host is the cluster as a mover sees it.
type host struct{ *Cluster }

func (h host) Load(ctx context.Context) (*stored.State, error) { return h.load(ctx) }
func (h host) CompareAndSwap(ctx context.Context, old uint64, next *stored.State) error {
	return h.swap(ctx, old, next)
}
func (h host) Install(st *stored.State, asked time.Time) error { return h.install(st, asked) }
func (h host) MapTTL() time.Duration                           { return h.opts.MapTTL }
func (h host) Quiesce(ctx context.Context, patience time.Duration) error {
	return h.quiesce(ctx, patience)
}

func (h host) Shard(id string) (*sql.DB, error) {
	sh, err := h.shard(ID(id))
	if err != nil {
		return nil, err
	}
	return sh.DB, nil
}

func (h host) Prepare(ctx context.Context, id string) error {
	sh, err := h.shard(ID(id))
	if err != nil {
		return err
	}
	return h.prepareShard(ctx, sh)
}

// Job is a move in progress. Its methods are safe for concurrent use.
type Job struct {
	c      *Cluster
	opts   MoveOptions
	mover  *mover.Job
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // set before done is closed
}

var errPaused = errors.New("shard: job paused")

// Move begins a job. It returns when the job is stored; the work goes on in the background. ErrMoving when there is one
// already, ErrConflict when the map is not the one that the plan was made from.
func (c *Cluster) Move(ctx context.Context, p Plan, o MoveOptions) (*Job, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := c.movable(); err != nil {
		return nil, err
	}
	if len(p.Moves) == 0 {
		return nil, fmt.Errorf("%w: the plan is empty", ErrPreflight)
	}
	st, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	if st.Job != nil {
		return nil, ErrMoving
	}
	if st.Epoch != p.Epoch {
		return nil, fmt.Errorf("%w: the plan is for epoch %d, the map is at %d", ErrConflict, p.Epoch, st.Epoch)
	}
	js := &stored.Job{Moves: p.stored(), Phase: stored.Prepare, Rows: p.Rows, Reversible: o.Reversible}
	js.NextGroup(o.Group)
	return c.begin(ctx, st, js, o)
}

// movable reports what is missing to move rows.
func (c *Cluster) movable() error {
	if c.db == nil || len(c.opts.Tables) == 0 {
		return fmt.Errorf("%w: Options.Dialect and Options.Tables are needed to move rows", ErrPreflight)
	}
	return nil
}

// begin stores a job and starts it.
func (c *Cluster) begin(ctx context.Context, st *stored.State, js *stored.Job, o MoveOptions) (*Job, error) {
	next := st.Next()
	next.Token++
	js.ID, js.Token = next.Token, next.Token
	next.Job = js
	asked := time.Now()
	if err := c.swap(ctx, st.Epoch, next); err != nil {
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
		st, err := c.load(ctx)
		if err != nil {
			return nil, err
		}
		if st.Job == nil {
			return nil, nil
		}
		next := st.Next()
		next.Token++
		next.Job.Token = next.Token
		asked := time.Now()
		if err := c.swap(ctx, st.Epoch, next); errors.Is(err, ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		return c.start(next, o, asked)
	}
}

func (c *Cluster) start(st *stored.State, o MoveOptions, asked time.Time) (*Job, error) {
	if err := c.install(st, asked); err != nil {
		return nil, err
	}
	j := &Job{c: c, opts: o, done: make(chan struct{}),
		mover: mover.New(host{c}, st, c.moverOptions(o), ErrUnknownShard,
			ErrNoMap)}
	ctx, cancel := context.WithCancelCause(c.ctx)
	j.cancel = cancel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel(nil)
		return nil, ErrClosed
	}
	c.wg.Go(func() {
		j.err = j.mover.Run(ctx)
		if j.err != nil && ctx.Err() == nil && !errors.Is(j.err, ErrMoverLost) {
			c.jobErrors.Add(j.err)
			c.warn.Warn("job ended", "shard: the move has ended; it stays stored and can be resumed", "err", j.err)
		}
		cancel(nil)
		close(j.done)
	})
	return j, nil
}

// Wait returns when the job is done, with nil, or when it failed. A failed job stays stored and can be resumed.
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
	case <-j.mover.Holding():
		return nil
	case <-j.done:
		return cmp.Or(j.err, errors.New("shard: the job is done; there is nothing to hold"))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status of the job.
func (j *Job) Status() Progress { return progressOf(j.mover.Progress()) }

// Pause stops the job. Cluster.Resume goes on from there.
func (j *Job) Pause() error {
	j.cancel(errPaused)
	<-j.done
	return nil
}

// Complete ends the hold of a reversible job: the way back is given up and the sources' rows are deleted, after the
// longest MapTTL of all processes. It returns the job that does so. ErrNotHeld when the job is not that far; it then
// has to be resumed.
func (j *Job) Complete(ctx context.Context) (*Job, error) {
	_ = j.Pause()
	if err := mover.Complete(ctx, host{j.c}, j.c.moverOptions(j.opts)); err != nil {
		return nil, err
	}
	return j.c.Resume(ctx, j.opts)
}

// Rollback takes a reversible job back, in whatever phase before Complete it is: a group that is not handed over is
// undone as by Abort, and those that are return to their sources with all that was written meanwhile, by the steps of a
// move without the copy: catch up, verify, fence, drain, compare-and-swap. No acknowledged write is lost. It returns
// the job that does so, which can be resumed like any other but not aborted; nil when nothing had been handed over.
func (j *Job) Rollback(ctx context.Context) (*Job, error) {
	_ = j.Pause()
	resume, err := mover.Rollback(ctx, host{j.c}, j.c.moverOptions(j.opts))
	if err != nil || !resume {
		return nil, err
	}
	return j.c.Resume(ctx, j.opts)
}

// Abort undoes the current group, which is possible until its commit, and ends the job. Groups already handed over
// stay, and their old rows are deleted, which takes the longest MapTTL at least. After the commit of the last group it
// returns an error: resume the job, or roll it back if it is reversible.
func (j *Job) Abort(ctx context.Context) error {
	_ = j.Pause()
	o := j.opts
	o.RowsPerSecond, o.Chunk = 0, max(o.Chunk, 500) // it is to be over soon
	return mover.Abort(ctx, host{j.c}, j.c.moverOptions(o))
}
