package shard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// All slots were handed over and written to on the new owner; then the job is taken back while clients go on.
func TestRollback(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		before := w.c.Map()
		w.traffic(4, 2)
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 8, Chunk: 20, Reversible: true})
		require.NoError(t, err)
		require.NoError(t, j.WaitHold(ctx))
		require.Equal(t, 21, w.c.Map().Counts()["s2"])
		for n := w.writes.Load() + 100; w.writes.Load() < n; {
			time.Sleep(time.Millisecond)
		}
		require.Error(t, j.Abort(ctx))
		j, err = w.c.Resume(ctx, MoveOptions{Group: 5})
		require.NoError(t, err)
		require.NoError(t, j.WaitHold(ctx))
		back, err := j.Rollback(ctx)
		require.NoError(t, err)
		require.NoError(t, back.Wait(ctx))
		w.quiet()
		require.Len(t, back.Status().WritePauses, back.Status().Groups)
		t.Logf("%d writes; pauses there %v, back %v", w.writes.Load(), j.Status().WritePauses,
			back.Status().WritePauses)
		w.check()
		require.Zero(t, w.c.Map().Counts()["s2"])
		require.True(t, func() bool {
			for s := range Slot(64) {
				if before.Owner(s) != w.c.Map().Owner(s) {
					return false
				}
			}
			return true
		}(), "every slot is where it was")
		_, err = back.Rollback(ctx)
		require.ErrorIs(t, err, ErrNotHeld)
	})
}

func TestComplete(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		w.traffic(3, 1)
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 8, Chunk: 20, Reversible: true})
		require.NoError(t, err)
		require.NoError(t, j.WaitHold(ctx))
		j, err = j.Complete(ctx)
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		w.quiet()
		w.check()
		require.Equal(t, 21, w.c.Map().Counts()["s2"])
		_, err = j.Complete(ctx)
		require.ErrorIs(t, err, ErrNotHeld)
		require.Error(t, j.WaitHold(ctx))
	})
}

// Taken back in the middle: some groups handed over, one on its way. The way back dies at each of its steps and is
// resumed.
func TestRollbackOnTheWayAndCrashes(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		// before the commit of a group, and after; the simulation has the other steps
		for _, at := range []string{"before drain", "before gone"} {
			t.Run(at, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, p.Fresh(t), 2, 32, 80)
				ctx := t.Context()
				w.traffic(3, 1)
				n := 0
				j, err := w.c.Move(ctx, w.plan(ctx),
					MoveOptions{Group: 4, Chunk: 20, Reversible: true, step: func(name string) error {
						if name == "before prepare" {
							n++
						}
						if n == 2 && name == at {
							return mover.ErrCrash
						}
						return nil
					}})
				require.NoError(t, err)
				require.ErrorIs(t, j.Wait(ctx), mover.ErrCrash)
				crashed := map[string]bool{}
				j.opts.step = func(name string) error {
					if !crashed[name] && len(crashed) < 12 {
						crashed[name] = true
						return mover.ErrCrash
					}
					return nil
				}
				taken := j.opts
				j.opts.step = nil // the first steps of a rollback are its caller's: he sees the error and repeats
				back, err := j.Rollback(ctx)
				require.NoError(t, err)
				require.NoError(t, back.Pause())
				for {
					if back, err = w.c.Resume(ctx, taken); back == nil {
						require.NoError(t, err)
						break
					}
					if err := back.Wait(ctx); err == nil {
						break
					} else {
						require.ErrorIs(t, err, mover.ErrCrash)
					}
				}
				w.quiet()
				w.check()
				require.Zero(t, w.c.Map().Counts()["s2"])
			})
		}
	})
}
