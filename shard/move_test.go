package shard

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// Two shards become three while they are written to: nothing acknowledged is lost, nothing deleted comes back, no read
// is stale.
func TestReshardUnderTraffic(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		w.traffic(4, 2)
		time.Sleep(50 * time.Millisecond)
		plan := w.plan(ctx)
		require.Len(t, plan.Moves, 21, "the minimum")
		require.Positive(t, plan.Rows)
		var mu sync.Mutex // guards phases
		var phases []Phase
		j, err := w.c.Move(ctx, plan, MoveOptions{Group: 8, Chunk: 20, Progress: func(pr Progress) {
			mu.Lock()
			defer mu.Unlock()
			if len(phases) == 0 || phases[len(phases)-1] != pr.Phase {
				phases = append(phases, pr.Phase)
			}
		}})
		require.NoError(t, err)
		_, err = w.c.Move(ctx, plan, MoveOptions{})
		require.ErrorIs(t, err, ErrMoving)
		require.NoError(t, j.Wait(ctx))
		st := j.Status()
		require.Equal(t, 21, st.SlotsMoved)
		time.Sleep(50 * time.Millisecond)
		w.quiet()
		t.Logf("%d writes; write pauses %v; %d refused", w.writes.Load(), st.WritePauses, w.c.Stats().Refused)
		w.check()
		require.Len(t, st.WritePauses, st.Groups)
		require.Eventually(t, func() bool { // the last calls may come after Wait
			mu.Lock()
			defer mu.Unlock()
			return phases[len(phases)-1] == "done"
		}, 30*time.Second, time.Millisecond)
		for _, want := range []Phase{"prepare", "capture", "copy", "catchup", "verify", "fence", "drain",
			"commit", "gone", "owned", "cleanup", "done"} {
			require.Contains(t, phases, want)
		}
		counts := w.c.Map().Counts()
		require.Equal(t, 21, counts["s2"])
	})
}

// The mover dies once before and after each of its steps, and is resumed by another one.
func TestMoverCrashes(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		w.traffic(3, 1)
		crashed := map[string]int{}
		var where string
		step := func(name string) error {
			if name == "mid copy" || name == "mid drain" || name == "before save" || name == "after save" {
				name += " in " + where
			} else {
				where = name
			}
			if crashed[name] == 0 {
				crashed[name]++
				return mover.ErrCrash
			}
			return nil
		}
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 32, Chunk: 15, step: step})
		require.NoError(t, err)
		for {
			err := j.Wait(ctx)
			if err == nil {
				break
			}
			require.ErrorIs(t, err, mover.ErrCrash)
			j, err = w.c.Resume(ctx, MoveOptions{Group: 32, Chunk: 15, step: step})
			require.NoError(t, err)
			if j == nil { // it died after its last save
				break
			}
		}
		w.quiet()
		t.Logf("crashed at %d points; %d writes", len(crashed), w.writes.Load())
		require.Greater(t, len(crashed), 18)
		w.check()
	})
}

// A mover that freezes between reading a row and writing it wakes up when another one has finished its work.
func TestZombieMover(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		at := []string{"mid copy", "mid drain", "before fence", "before gone"}
		if p.Name() == "sqlite" {
			at = at[1:3] // the simulation has the other steps
		}
		for _, at := range at {
			t.Run(at, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, p.Fresh(t), 2, 64, 80)
				ctx := t.Context()
				w.traffic(3, 1)
				frozen, thaw := make(chan struct{}), make(chan struct{})
				var once atomic.Bool
				z, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 32, Chunk: 15, step: func(name string) error {
					if name == "before catchup" && at == "mid drain" { // something to drain
						for id := range 50 {
							w.write(w.c, id, 3, 0)
						}
					}
					if name == at && once.CompareAndSwap(false, true) {
						close(frozen)
						<-thaw
					}
					return nil
				}})
				require.NoError(t, err)
				select {
				case <-frozen:
				case <-z.done:
					t.Fatalf("the mover never came to %q: %v", at, z.err)
				}
				j, err := w.c.Resume(ctx, MoveOptions{Group: 32, Chunk: 15})
				require.NoError(t, err)
				require.NoError(t, j.Wait(ctx))
				time.Sleep(20 * time.Millisecond)
				close(thaw)
				require.ErrorIs(t, z.Wait(ctx), ErrMoverLost)
				w.quiet()
				w.check()
			})
		}
	})
}

func TestAbort(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		w.traffic(3, 1)
		paused := make(chan struct{})
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Chunk: 15, step: func(name string) error {
			if name == "before drain" {
				close(paused)
				return mover.ErrCrash // with the fence up
			}
			return nil
		}})
		require.NoError(t, err)
		<-paused
		require.NoError(t, j.Abort(ctx))
		time.Sleep(20 * time.Millisecond)
		w.quiet()
		w.check()
		require.Zero(t, w.c.Map().Counts()["s2"])
		w2, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, w2.Wait(ctx), "it can begin again")
	})
}

// A row that differs on the target, for whatever reason, stops the hand-over, and writers go on on the source.
func TestVerificationStopsTheHandOver(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 120)
		ctx := t.Context()
		var once atomic.Bool
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 64, step: func(name string) error {
			if name == "before catchup" && once.CompareAndSwap(false, true) {
				tx, err := p.Begin(ctx, w.shards[2].DB, 1<<40, time.Second) // somebody with the highest token
				if err != nil {
					return err
				}
				if _, err := tx.Exec(`update t set v = 99 where id = (select min(id) from t)`); err != nil {
					return err
				}
				if _, err := tx.Exec(`update tk_mover set token = 0`); err != nil {
					return err
				}
				return p.Commit(ctx, tx)
			}
			return nil
		}})
		require.NoError(t, err)
		require.ErrorIs(t, j.Wait(ctx), ErrVerify)
		for id := range w.keys {
			w.write(w.c, id, 7, 0)
		}
		require.NoError(t, j.Abort(ctx))
		w.check()
	})
}

func TestPreflight(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 20)
		ctx := t.Context()
		_, err := w.shards[2].DB.Exec(`alter table t add column extra int`)
		require.NoError(t, err)
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{})
		require.NoError(t, err)
		require.ErrorIs(t, j.Wait(ctx), ErrPreflight)
		require.NoError(t, func() error {
			_, err := w.shards[2].DB.Exec(`alter table t drop column extra`)
			return err
		}())
		j, err = w.c.Resume(ctx, MoveOptions{step: func(name string) error {
			if name == "before catchup" {
				_, err := w.shards[0].DB.Exec(`alter table t add column extra int`)
				return err
			}
			return nil
		}})
		require.NoError(t, err)
		require.ErrorIs(t, j.Wait(ctx), ErrSchemaChanged)
		_, err = w.c.Plan(ctx, Change{})
		require.Error(t, err)
		_, err = w.c.Plan(ctx, Change{Slots: []Slot{1}, To: "nowhere"})
		require.ErrorIs(t, err, ErrUnknownShard)
	})
}

// Scatter counts every key exactly once at every moment of a move.
func TestScatterDuringMove(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 300) // 150 rows, no writers
		ctx := t.Context()
		type item struct {
			id   int64
			slot Slot
		}
		q := Query[item]{SQL: `select id, slot from t order by id`, Less: func(a, b item) bool {
			return a.id < b.id
		}, SlotOf: func(i item) Slot { return i.slot },
			Scan: func(r *sql.Rows) (i item, err error) { return i, r.Scan(&i.id, &i.slot) }}
		ask := func(when string) {
			res, err := Scatter(ctx, w.c, q)
			require.NoError(t, err, when)
			require.Len(t, res.Rows, 150, when)
			require.True(t, slices.IsSortedFunc(res.Rows, func(a, b item) int { return int(a.id - b.id) }))
			page := q
			page.Offset, page.Limit = 40, 5
			res, err = Scatter(ctx, w.c, page)
			require.NoError(t, err)
			require.EqualValues(t, []int64{80, 82, 84, 86, 88}, ids(res.Rows, func(i item) int64 { return i.id }), when)
		}
		ask("before")
		done := make(chan struct{})
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 16, Chunk: 10, step: func(name string) error {
			ask(name)
			return nil
		}})
		require.NoError(t, err)
		go func() {
			defer close(done)
			for {
				select {
				case <-j.done:
					return
				default:
					ask("concurrently")
					w.rest()
				}
			}
		}()
		require.NoError(t, j.Wait(ctx))
		<-done
		ask("after")
		w.check()
	})
}

func ids[T any](rows []T, f func(T) int64) (out []int64) {
	for _, r := range rows {
		out = append(out, f(r))
	}
	return out
}

// Raw SQL that bypasses the router is refused where a slot does not live.
func TestGuards(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 20)
		require.NoError(t, w.c.Guard(t.Context()))
		require.NoError(t, w.c.Guard(t.Context()))
		m := w.c.Map()
		var mine, other Slot = -1, -1
		for s := range Slot(64) {
			if m.Owner(s) == "s0" {
				mine = s
			} else {
				other = s
			}
		}
		db := w.shards[0].DB
		ins := p.Bind(`insert into t (id, slot, v) values (?, ?, 1)`)
		_, err := db.Exec(ins, 1000, int(mine))
		require.NoError(t, err)
		_, err = db.Exec(ins, 1001, int(other))
		require.True(t, p.IsFenced(err), "%v", err)
		_, err = db.Exec(p.Bind(`update t set slot = ? where id = 1000`), int(other))
		require.True(t, p.IsFenced(err), "%v", err)
		if p.Name() == "postgres" {
			_, err = db.Exec(`truncate t`)
			require.ErrorContains(t, err, "cannot be truncated")
		}
		_, err = db.Exec(`delete from t where id = 1000`)
		require.NoError(t, err)
		var e *PartialError
		err = w.c.DoMany(context.Background(), []Key{Int(1), Int(2), Int(3)},
			func(context.Context, *sql.DB, []int) error {
				return sql.ErrNoRows
			})
		require.ErrorAs(t, err, &e)
		require.True(t, errors.Is(err, sql.ErrNoRows))
	})
}
