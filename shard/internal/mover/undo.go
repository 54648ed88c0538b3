package mover

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// takeOver takes the stored job over with a new token. allowed looks at the job first; it is nil when none is stored,
// and then so are the results.
func takeOver(ctx context.Context, c Cluster, o Options, allowed func(js *stored.Job) error) (*stored.State, *Job,
	error) {
	for {
		st, err := c.Load(ctx)
		if err != nil {
			return nil, nil, err
		}
		if err := allowed(st.Job); err != nil || st.Job == nil {
			return nil, nil, err
		}
		next := st.Next()
		next.Token++
		next.Job.Token = next.Token
		if p := next.Job.Phase; !next.Job.Reverse && (p == stored.Copy || p == stored.Fence) {
			next.Job.Phase = stored.Prepare // what is undone in part begins anew if it is resumed
		}
		if err := c.CompareAndSwap(ctx, st.Epoch, next); errors.Is(err, stored.ErrConflict) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		return next, New(c, next, o), nil
	}
}

// Complete ends the hold of the stored job, which can then be resumed.
func Complete(ctx context.Context, c Cluster, o Options) error {
	_, j, err := takeOver(ctx, c, o, func(js *stored.Job) error {
		if js == nil || js.Phase != stored.Hold {
			return fmt.Errorf("%w: it is not in phase %s", ErrNotHeld, stored.Hold)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return j.save(ctx, func(st *stored.State) error {
		st.Job.Reversible = false
		st.Job.Phase = stored.Grace
		return nil
	})
}

// Rollback undoes the group that is not handed over, and turns the stored job around for those that are. It reports
// whether there are any; the job can then be resumed.
func Rollback(ctx context.Context, c Cluster, o Options) (resume bool, err error) {
	st, j, err := takeOver(ctx, c, o, func(js *stored.Job) error {
		if js == nil || !js.Reversible || js.Phase == stored.Pinning {
			return fmt.Errorf("%w: MoveOptions.Reversible was not set, or it was completed", ErrNotHeld)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	done := st.Job.Done
	if done < len(st.Job.Moves) {
		g, err := newGroup(c, st.Job, done, st.Job.Size)
		if err != nil {
			return false, err
		}
		if st.Job.Phase == stored.Gone { // committed: it must be opened first
			if err := j.fence.open(ctx, g, st.Epoch, true); err != nil {
				return false, err
			}
			done += st.Job.Size
		} else if err := j.cleaner.undo(ctx, g); err != nil {
			return false, err
		}
	}
	err = j.save(ctx, func(st *stored.State) error {
		if done == 0 {
			st.Job = nil
			return nil
		}
		st.Job.TurnAround(done, o.Group)
		return nil
	})
	return done > 0, err
}

// Abort undoes the group that is not handed over and ends the stored job, after it has deleted the old rows of those
// that are.
func Abort(ctx context.Context, c Cluster, o Options) error {
	st, j, err := takeOver(ctx, c, o, func(js *stored.Job) error {
		if js == nil {
			return nil
		}
		if p := js.Phase; js.Reverse || slices.Contains([]stored.Phase{stored.Gone, stored.Hold, stored.Grace,
			stored.Cleanup, stored.Pinning}, p) {
			return fmt.Errorf("shard: phase %s cannot be undone; resume the job", p)
		}
		return nil
	})
	if err != nil || st == nil {
		return err
	}
	g, err := newGroup(c, st.Job, st.Job.Done, st.Job.Size)
	if err != nil {
		return err
	}
	if err := j.cleaner.undo(ctx, g); err != nil {
		return err
	}
	err = j.save(ctx, func(st *stored.State) error {
		if st.Job.Done == 0 {
			st.Job = nil
			return nil
		}
		st.Job.Moves = st.Job.Moves[:st.Job.Done]
		st.Job.Phase = stored.Grace
		return nil
	})
	if err != nil || st.Job.Done == 0 {
		return err
	}
	return j.Run(ctx)
}
