package shard

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// Operations that are between routing and their statement, or act on an old map, while the slot moves. The statements
// of these tests find no row where the slot does not live, so no guard refuses them.

// held is a Do whose statement waits.
type held struct {
	arrived, proceed chan struct{}
	done             chan error
}

// add1 adds 1 to a row through Do, and waits before each statement for which hold says so.
func (w *world) add1(c *Cluster, id int, hold func(run int) bool) *held {
	h := &held{make(chan struct{}), make(chan struct{}), make(chan error, 1)}
	run := 0
	go func() {
		h.done <- c.Do(context.Background(), Int(int64(id)), func(ctx context.Context, db *sql.DB, _ Slot) error {
			if run++; hold(run) {
				close(h.arrived)
				<-h.proceed
			}
			_, err := db.ExecContext(ctx, w.p.Bind(`update t set v = v + 1 where id = ?`), id)
			return err
		})
	}()
	return h
}

func first(run int) bool { return run == 1 }

// moveOne finds an even id (they have rows) that the plan moves, and begins the move.
func (w *world) moveOne(t *testing.T, o MoveOptions) (id int, j *Job) {
	t.Helper()
	for m := w.c.Map(); m.Owner(m.SlotOf(Int(int64(id)))) != "s0"; {
		id += 2
	}
	return id, w.moveKey(t, id, "s2", o)
}

func (w *world) moveKey(t *testing.T, id int, to ID, o MoveOptions) *Job {
	t.Helper()
	p, err := w.c.Plan(t.Context(), Change{Slots: []Slot{w.c.Slot(Int(int64(id)))}, To: to})
	require.NoError(t, err)
	j, err := w.c.Move(t.Context(), p, o)
	require.NoError(t, err)
	return j
}

func (w *world) stored(t *testing.T, id int) (v int64) {
	t.Helper()
	require.NoError(t, w.c.Refresh(t.Context()))
	err := w.c.DB(w.c.Map().Owner(w.c.Slot(Int(int64(id))))).QueryRow(w.p.Bind(`select v from t where id = ?`),
		id).Scan(&v)
	require.NoError(t, err)
	return v
}

// At any time of a move a Do may stand between routing and its statement. Its process moves, too: the mover leaves the
// rows until it has ended.
func TestHeldDoInTheMoversProcess(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		over := make(chan struct{})
		var h *held
		id, j := -1, (*Job)(nil)
		started := make(chan struct{})
		id, j = w.moveOne(t, MoveOptions{step: func(name string) error {
			switch name {
			case "before fence":
				<-started
				h = w.add1(w.c, id, first)
				<-h.arrived
			case "before grace", "before cleanup":
				if over != nil {
					close(over)
					over = nil
				}
			}
			return nil
		}})
		wait := over
		close(started)
		select {
		case <-wait:
		case <-time.After(time.Minute):
			t.Fatal("the move never got so far")
		}
		// Long after the lease the rows are still there, for the Do.
		select {
		case <-j.done:
			t.Fatal("the rows were deleted under a Do")
		case <-time.After(3 * w.c.opts.MapTTL):
		}
		close(h.proceed)
		require.NoError(t, <-h.done)
		require.NoError(t, j.Wait(t.Context()))
		require.EqualValues(t, 2, w.stored(t, id))
		w.keys[id].value = 2
		w.check()
	})
}

// Of another process the mover knows nothing. After the lease it goes on, and the Do learns that its outcome is not
// known.
func TestHeldDoInAFrozenProcess(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		frozen := w.process(0)
		begun := make(chan struct{})
		id := -1
		var h *held
		id, j := w.moveOne(t, MoveOptions{step: func(name string) error {
			if name == "before fence" && h == nil {
				<-begun
				h = w.add1(frozen, id, first)
				<-h.arrived
			}
			return nil
		}})
		close(begun)
		require.NoError(t, j.Wait(t.Context()))
		close(h.proceed)
		require.ErrorIs(t, <-h.done, ErrOutcomeUnknown)
		require.EqualValues(t, 1, frozen.Stats().Unknown)
		require.EqualValues(t, 1, w.stored(t, id), "and here it did not take effect")
		require.NoError(t, frozen.Do(t.Context(), Int(int64(id)), func(ctx context.Context, db *sql.DB, _ Slot) error {
			_, err := db.ExecContext(ctx, w.p.Bind(`update t set v = v + 1 where id = ?`), id)
			return err
		}), "it finds the way now")
		require.EqualValues(t, 2, w.stored(t, id))
		w.keys[id].value = 2
		w.check()
	})
}

// The slot was away when the statement ran, and is back when the shard is asked.
func TestHeldDoAwayAndBack(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		frozen := w.process(0)
		id := 0
		for m := w.c.Map(); m.Owner(m.SlotOf(Int(int64(id)))) != "s0"; {
			id += 2
		}
		back := make(chan struct{})
		arrived, proceed, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			done <- frozen.Do(context.Background(), Int(int64(id)),
				func(ctx context.Context, db *sql.DB, _ Slot) error {
					close(arrived)
					<-proceed
					_, err := db.ExecContext(ctx, w.p.Bind(`update t set v = v + 1 where id = ?`), id)
					close(back)
					<-proceed
					return err
				})
		}()
		<-arrived
		require.NoError(t, w.moveKey(t, id, "s2", MoveOptions{}).Wait(t.Context()))
		proceed <- struct{}{}
		<-back
		require.NoError(t, w.moveKey(t, id, "s0", MoveOptions{}).Wait(t.Context()))
		proceed <- struct{}{}
		require.ErrorIs(t, <-done, ErrOutcomeUnknown)
		require.EqualValues(t, 1, w.stored(t, id))
		w.check()
	})
}

// A process with an old map comes late: it must not work on rows that are still there, nor miss one that is only on the
// new owner.
func TestStaleMapIsNotActedOn(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		stale := w.process(0)
		id := -1
		begun, left := make(chan struct{}), make(chan struct{})
		id, j := w.moveOne(t, MoveOptions{step: func(name string) error {
			if name == "before grace" {
				<-begun
				w.write(w.c, id, 0, 0) // on the new owner: away, there again, and something new
				w.write(w.c, id, 5, 0)
				close(left)
			}
			return nil
		}})
		close(begun)
		<-left
		require.NoError(t, stale.Do(t.Context(), Int(int64(id)), func(ctx context.Context, db *sql.DB, _ Slot) error {
			var v int64
			if err := db.QueryRowContext(ctx, w.p.Bind(`select v from t where id = ?`), id).Scan(&v); err != nil {
				return err
			}
			require.EqualValues(t, 5, v, "a stale read")
			_, err := db.ExecContext(ctx, w.p.Bind(`update t set v = v + 1 where id = ?`), id)
			return err
		}))
		require.NoError(t, stale.DoMany(t.Context(), []Key{Int(int64(id))},
			func(ctx context.Context, db *sql.DB, _ []int) error {
				_, err := db.ExecContext(ctx, w.p.Bind(`update t set v = v + 1 where id = ?`), id)
				return err
			}))
		require.NoError(t, j.Wait(t.Context()))
		require.EqualValues(t, 7, w.stored(t, id))
		w.keys[id].value = 7
		w.check()
	})
}

// A process that heard of no move, and acts on its map for the whole lease without asking, is waited for.
func TestFenceWaitsForTheLease(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		slow, err := New(t.Context(), w.store, w.shards,
			Options{Dialect: Dialect{p.Database}, Tables: testTables, Refresh: -1, MapTTL: 1500 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(func() { _ = slow.Close() })
		until := time.Now().Add(1500 * time.Millisecond)
		var fenced, cleaned, opened time.Time
		id, j := w.moveOne(t, MoveOptions{step: func(name string) error {
			switch name {
			case "before fence":
				fenced = time.Now()
			case "before grace":
				opened = time.Now()
			case "before cleanup":
				cleaned = time.Now()
			}
			return nil
		}})
		n := 0
		for time.Now().Before(until.Add(-50 * time.Millisecond)) {
			require.NoError(t, slow.Do(t.Context(), Int(int64(id)),
				func(ctx context.Context, db *sql.DB, _ Slot) error {
					_, err := db.ExecContext(ctx, p.Bind(`update t set v = v + 1 where id = ?`), id)
					return err
				}))
			n++
		}
		require.NoError(t, j.Wait(t.Context()))
		require.True(t, fenced.After(until), "fenced while a process trusted its map")
		require.Greater(t, cleaned.Sub(opened), 1500*time.Millisecond)
		require.EqualValues(t, 1+n, w.stored(t, id))
		w.keys[id].value = int64(1 + n)
		w.check()
	})
}

func TestMapTTLOptions(t *testing.T) {
	db := testdb.SQLite(t).Open("x")
	for _, o := range []Options{{MapTTL: time.Second}, {MapTTL: -1},
		{Refresh: 3 * time.Second, MapTTL: 3 * time.Second}} {
		_, err := New(t.Context(), MemoryStore(), []Shard{{ID: "a", DB: db}}, o)
		require.ErrorContains(t, err, "Options.MapTTL")
	}
	now := time.Now()
	require.False(t, expired(now, now.Add(time.Second), time.Second))
	require.True(t, expired(now, now.Add(time.Second+1), time.Second))
	require.True(t, expired(now, now.Round(0).Add(time.Hour), time.Second), "the machine was suspended")
}
