package shard

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/stored"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// forgetful is a store that does what it is told, and sometimes does not answer.
type forgetful struct {
	MapStore
	silent atomic.Pointer[func(next *State) bool]
}

func (f *forgetful) CompareAndSwap(ctx context.Context, old uint64, next *State) error {
	err := f.MapStore.CompareAndSwap(ctx, old, next)
	if silent := f.silent.Load(); silent != nil && err == nil && (*silent)(next) {
		return errors.New("forgetful: connection lost")
	}
	return err
}

// The store's answers are lost once for each step of a job: it goes on all the same.
func TestLostAnswersOfTheStore(t *testing.T) {
	t.Parallel() // most of it is waiting for leases
	w := newWorld(t, testdb.SQLite(t), 2, 64, 40)
	store := &forgetful{MapStore: w.store}
	w.store = store
	w.c.store = store
	w.c.opts.MapTTL = 2 * time.Second
	seen := map[[2]any]bool{}
	var handedOver, early atomic.Int64
	silent := func(st *State) bool {
		next := &st.in
		if next.Job == nil {
			return false
		}
		k := [2]any{next.Job.Phase, next.Job.Done}
		again := seen[k]
		seen[k] = true
		if next.Job.Phase == stored.Gone {
			handedOver.Store(time.Now().UnixNano())
		}
		return !again && len(seen) > 1 // Move itself is told
	}
	store.silent.Store(&silent)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 8, step: func(name string) error {
		if name == "before cleanup" && time.Since(time.Unix(0, handedOver.Load())) < w.c.opts.MapTTL {
			early.Add(1)
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, j.Wait(ctx), "%v", j.Status().Err)
	require.Zero(t, early.Load(), "rows were deleted less than a lease after they were handed over")
	w.check()
}

// A shard that was emptied need not be given any more.
func TestEmptiedShardIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.SQLite(t), 2, 64, 40)
	ctx := t.Context()
	p, err := w.c.Plan(ctx, Change{Weights: map[ID]float64{"s1": 1, "s2": 1}})
	require.NoError(t, err)
	j, err := w.c.Move(ctx, p, MoveOptions{})
	require.NoError(t, err)
	require.NoError(t, j.Wait(ctx))
	w.check()
	c, err := New(ctx, w.store, w.shards[1:], Options{Dialect: Dialect{w.p.Database}, Tables: testTables, Refresh: -1})
	require.NoError(t, err)
	defer c.Close()
	var v int64
	require.NoError(t, w.get(c, 4, &v, nil))
	require.EqualValues(t, 1, v)
	require.Equal(t, []ID{"s1", "s2"}, c.Map().Shards())
}

// A read-only transaction that takes longer than a lease looks again at every slot it asked for, not only at its own.
func TestReadOnlyTxOfTwoSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.Postgres(t), 2, 64, 40)
	ctx := t.Context()
	m := w.c.Map()
	mine, other := -1, -1
	for id := 0; id < len(w.keys); id += 2 {
		switch s := m.SlotOf(Int(int64(id))); {
		case m.Owner(s) != "s0":
		case mine < 0:
			mine = id
		case s != m.SlotOf(Int(int64(mine))):
			other = id
		}
	}
	require.GreaterOrEqual(t, other, 0)
	second := w.process(0)
	runs, found := 0, 0
	err := second.Tx(ctx, Int(int64(mine)), &sql.TxOptions{ReadOnly: true}, func(tx *Tx) error {
		if _, err := tx.SlotOf(Int(int64(other))); err != nil {
			return err
		}
		if runs++; runs == 1 {
			require.NoError(t, w.moveKey(t, other, "s2", MoveOptions{}).Wait(ctx))
		}
		return tx.QueryRow(`select count(*) from t where id = $1`, other).Scan(&found)
	})
	require.ErrorIs(t, err, ErrCrossShard, "the first run found nothing, the second one knows why")
	require.Equal(t, 1, runs)
}

// What prevents the mover from going on behind the fence does not keep the writers out for as long.
func TestFenceGivesWay(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		ctx := t.Context()
		stuck, wrote := make(chan struct{}), make(chan struct{})
		n := 0
		id, j := w.moveOne(t, MoveOptions{step: func(name string) error {
			switch name {
			case "before drain":
				if n++; n == 1 {
					return errors.New("the target cannot be reached")
				}
			case "before fence":
				if n == 1 { // again
					close(stuck)
					<-wrote
				}
			}
			return nil
		}})
		<-stuck
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := w.c.Tx(short, Int(int64(id)), nil, func(tx *Tx) error {
			_, err := tx.ExecContext(short, p.Bind(`update t set v = 7 where id = ?`), id)
			return err
		})
		close(wrote)
		require.NoError(t, err)
		w.keys[id].value = 7
		require.NoError(t, j.Wait(ctx))
		w.check()
	})
}

// A job that is paused behind the fence leaves the slots writable.
func TestPauseBehindTheFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.SQLite(t), 2, 64, 40)
	ctx := t.Context()
	fenced := make(chan struct{})
	var id int
	var j *Job
	id, j = w.moveOne(t, MoveOptions{step: func(name string) error {
		if name == "before drain" {
			close(fenced)
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}})
	<-fenced
	require.NoError(t, j.Pause())
	require.ErrorIs(t, j.Wait(ctx), errPaused)
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	require.NoError(t, w.c.Tx(short, Int(int64(id)), nil, func(tx *Tx) error {
		_, err := tx.ExecContext(short, w.p.Bind(`update t set v = 7 where id = ?`), id)
		return err
	}))
	w.keys[id].value = 7
	j, err := w.c.Resume(ctx, MoveOptions{})
	require.NoError(t, err)
	require.NoError(t, j.Wait(ctx))
	w.check()
}

// The error of a scatter names the shards that failed, not those that were told to stop because of it.
func TestScatterNamesWhoFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testdb.SQLite(t), 2, 64, 2000)
	boom := errors.New("boom")
	failed := make(chan struct{})
	_, err := Scatter(t.Context(), w.c, Query[int]{SQL: `select id, slot from t`, SlotOf: func(int) Slot { return 0 },
		Scan: func(rows *sql.Rows) (id int, err error) {
			var s Slot
			if err := rows.Scan(&id, &s); err != nil {
				return 0, err
			}
			if w.c.Map().Owner(s) == "s0" {
				close(failed)
				return 0, boom
			}
			<-failed
			time.Sleep(5 * time.Millisecond)
			return id, nil
		}})
	var e *PartialError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, boom)
	require.NotErrorIs(t, err, context.Canceled)
	require.Len(t, e.Failed, 1)
}
