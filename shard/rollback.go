package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// keepBoth brings what clients write on the targets to the sources, until somebody decides.
func (j *Job) keepBoth(js *JobState) error {
	if err := j.enter(PhaseHold); err != nil {
		return err
	}
	var back []*group
	for at := 0; at < len(js.Moves); {
		g, err := j.c.group(js, at, groupSize(js.Moves[at:], j.opts.Group))
		if err != nil {
			return err
		}
		g.from, g.to = g.to, g.from
		if err := j.load(g, ErrSchemaChanged); err != nil {
			return err
		}
		back, at = append(back, g), g.end
	}
	select {
	case <-j.hold:
	default:
		close(j.hold)
	}
	for n := 0; ; n++ {
		found := 0
		for _, g := range back {
			dirty, err := j.drain(g, drainMax)
			if err != nil {
				return err
			}
			found += dirty
		}
		if found > 0 {
			n = 0
		}
		if err := j.crashPoint("mid hold"); err != nil {
			return err
		}
		if err := backoff.Sleep(j.ctx, holdPolicy.Delay(n)); err != nil {
			return err
		}
		// Whoever decides takes a new token; without this look an idle mover would not notice.
		if st, err := j.c.store.Load(j.ctx); err != nil {
			return err
		} else if st.Job == nil || st.Job.Token != j.token {
			return ErrMoverLost
		}
	}
}

var holdPolicy = backoff.Policy{Base: 20 * time.Millisecond, Max: 500 * time.Millisecond}

// take stops the mover and takes the stored job over. allowed looks at it first.
func (j *Job) take(ctx context.Context, allowed func(js *JobState) error) (*State, *Job, error) {
	j.cancel(errPaused)
	<-j.done
	for {
		st, err := j.c.store.Load(ctx)
		if err != nil {
			return nil, nil, err
		}
		if st.Job == nil {
			return nil, nil, allowed(nil)
		}
		if err := allowed(st.Job); err != nil {
			return nil, nil, err
		}
		next := st.clone()
		next.Epoch++
		next.Token++
		next.Job.Token = next.Token
		if p := next.Job.Phase; !next.Job.Reverse && (p == PhaseCopy || p == PhaseFence) {
			next.Job.Phase = PhasePrepare // what is undone in part begins anew if it is resumed
		}
		if err := j.c.store.CompareAndSwap(ctx, st.Epoch, next); errors.Is(err, ErrConflict) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		a := j.c.mover(next, j.opts)
		a.ctx, a.cancel = context.WithCancelCause(ctx)
		return next, a, nil
	}
}

// Complete ends the hold of a reversible job: the way back is given up and the sources' rows are deleted, after the
// longest lease of all processes. It returns the job that does so. ErrNotHeld when the job is not that far; it then has
// to be resumed.
func (j *Job) Complete(ctx context.Context) (*Job, error) {
	_, a, err := j.take(ctx, func(js *JobState) error {
		if js == nil || js.Phase != PhaseHold {
			return fmt.Errorf("%w: it is not in phase %s", ErrNotHeld, PhaseHold)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer a.cancel(nil)
	if err := a.save(func(st *State) error { st.Job.Reversible = false; return toPhase(PhaseGrace)(st) }); err != nil {
		return nil, err
	}
	return j.c.Resume(ctx, j.opts)
}

// Rollback takes a reversible job back, in whatever phase before Complete it is: a group that is not handed over is
// undone as by Abort, and those that are return to their sources with all that was written meanwhile, by the steps of a
// move without the copy: catch up, verify, fence, drain, compare-and-swap. No acknowledged write is lost. It returns
// the job that does so, which can be resumed like any other but not aborted.
func (j *Job) Rollback(ctx context.Context) (*Job, error) {
	st, a, err := j.take(ctx, func(js *JobState) error {
		if js == nil || !js.Reversible || js.Phase == PhasePin {
			return fmt.Errorf("%w: MoveOptions.Reversible was not set, or it was completed", ErrNotHeld)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer a.cancel(nil)
	js := st.Job
	done := js.Done
	if done < len(js.Moves) {
		g, err := j.c.group(js, js.Done, js.Size)
		if err != nil {
			return nil, err
		}
		if js.Phase == PhaseGone { // committed: it must be opened first
			if err := a.open(g, st.Epoch, true); err != nil {
				return nil, err
			}
			done += js.Size
		} else if err := a.undo(g); err != nil {
			return nil, err
		}
	}
	err = a.save(func(st *State) error {
		js := st.Job
		moves := slices.Clone(js.Moves[:done])
		for i, m := range moves {
			moves[i] = SlotMove{Slot: m.Slot, From: m.To, To: m.From}
		}
		js.Moves, js.Done, js.Cleaned, js.Reversible, js.Reverse = moves, 0, 0, false, true
		js.nextGroup(j.opts.Group)
		if len(moves) == 0 {
			st.Job = nil
			return nil
		}
		return toPhase(PhaseFence)(st)
	})
	if err != nil || done == 0 {
		return nil, err
	}
	return j.c.Resume(ctx, j.opts)
}

// Abort undoes the current group, which is possible until its commit, and ends the job. Groups already handed over
// stay, and their old rows are deleted, which takes the longest lease at least. After the commit of the last group it
// returns an error: resume the job, or roll it back if it is reversible.
func (j *Job) Abort(ctx context.Context) error {
	st, a, err := j.take(ctx, func(js *JobState) error {
		if js == nil {
			return nil
		}
		if p := js.Phase; js.Reverse || p == PhaseGone || p == PhaseHold || p == PhaseGrace || p == PhaseCleanup ||
			p == PhasePin {
			return fmt.Errorf("shard: phase %s cannot be undone; resume the job", p)
		}
		return nil
	})
	if err != nil || st == nil {
		return err
	}
	defer a.cancel(nil)
	a.opts.RowsPerSecond, a.opts.Chunk = 0, max(a.opts.Chunk, 500) // whoever aborts wants it over
	g, err := j.c.group(st.Job, st.Job.Done, st.Job.Size)
	if err != nil {
		return err
	}
	if err := a.undo(g); err != nil {
		return err
	}
	err = a.save(func(st *State) error {
		if st.Job.Done == 0 {
			st.Job = nil
			return nil
		}
		st.Job.Moves = st.Job.Moves[:st.Job.Done]
		return toPhase(PhaseGrace)(st)
	})
	if err != nil || st.Job.Done == 0 {
		return err
	}
	return a.run()
}
