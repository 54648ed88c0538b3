package shard

import (
	"context"
	"errors"
	"fmt"
)

// Abort undoes the current group, which is possible until its commit, and ends the job. Groups already handed over stay, and their
// old rows are deleted, which takes the longest lease at least. After the commit of the last group it returns an error: resume the job instead.
func (j *Job) Abort(ctx context.Context) error {
	j.cancel(errPaused)
	<-j.done
	c := j.c
	var taken *State
	for {
		st, err := c.store.Load(ctx)
		if err != nil {
			return err
		}
		if st.Job == nil {
			return nil
		}
		if p := st.Job.Phase; p == PhaseGone || p == PhaseGrace || p == PhaseCleanup || p == PhasePin {
			return fmt.Errorf("shard: phase %s cannot be undone; resume the job", p)
		}
		next := st.clone()
		next.Epoch++
		next.Token++
		next.Job.Token = next.Token
		if err := c.store.CompareAndSwap(ctx, st.Epoch, next); errors.Is(err, ErrConflict) {
			continue
		} else if err != nil {
			return err
		}
		taken = next
		break
	}
	a := c.mover(taken, j.opts)
	a.opts.RowsPerSecond, a.opts.Chunk = 0, max(a.opts.Chunk, 500) // whoever aborts wants it over
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	defer a.cancel(nil)
	g, err := c.group(taken.Job, taken.Job.Done, taken.Job.Size)
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
	if err != nil || taken.Job.Done == 0 {
		return err
	}
	return a.run()
}
