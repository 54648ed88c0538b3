package shard

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// Changes that are more than a new value: of the primary key, of the slot, of the schema.
func TestKeysAndSlotsChangeDuringAMove(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 60)
		ctx := t.Context()
		var here []int // even keys of s0
		for id := 0; len(here) < 4; id += 2 {
			if w.c.Map().Owner(w.c.Slot(Int(int64(id)))) == "s0" {
				here = append(here, id)
			}
		}
		slot := func(i int) Slot { return w.c.Slot(Int(int64(here[i]))) }
		require.NotEqual(t, slot(0), slot(3))
		var foreign Slot
		for foreign = 0; w.c.Map().Owner(foreign) == "s0"; foreign++ {
		}
		src := w.shards[0].DB
		exec := func(q string, args ...any) error {
			_, err := src.Exec(p.Bind(q), args...)
			return err
		}
		plan, err := w.c.Plan(ctx, Change{Slots: []Slot{slot(0), slot(1), slot(2)}, To: "s2"})
		require.NoError(t, err)
		var once atomic.Bool
		j, err := w.c.Move(ctx, plan, MoveOptions{step: func(name string) error {
			if name != "before catchup" || !once.CompareAndSwap(false, true) {
				return nil
			}
			require.NoError(t, exec(`update t set id = ? where id = ?`, 1000+here[0], here[0]), "the primary key")
			require.NoError(t, exec(`update t set slot = ? where id = ?`, int(slot(3)), here[1]),
				"to a slot that stays")
			require.NoError(t, exec(`update t set slot = ? where id = ?`, int(slot(2)), here[3]),
				"and from one to a slot that moves")
			err := exec(`update t set slot = ? where id = ?`, int(foreign), here[2])
			require.True(t, p.IsFenced(err), "to a slot that lives elsewhere: %v", err)
			err = exec(`insert into t (id, slot, v) values (?, ?, 1)`, 5000, int(foreign))
			require.True(t, p.IsFenced(err), "%v", err)
			if p.Name() == "postgres" {
				require.ErrorContains(t, exec(`truncate t`), "cannot be truncated")
				require.True(t, p.IsFenced(exec(`insert into t (id, slot, v) values (5001, 9999, 1)`)),
					"no such slot")
			}
			return nil
		}})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		at := func(db *sql.DB) (ids []int) {
			rows, err := db.Query(p.Bind(`select id from t where id in (?, ?, ?, ?, ?) order by id`), here[0],
				here[1], here[2], here[3], 1000+here[0])
			require.NoError(t, err)
			defer rows.Close()
			for rows.Next() {
				var id int
				require.NoError(t, rows.Scan(&id))
				ids = append(ids, id)
			}
			return ids
		}
		require.Equal(t, []int{here[1]}, at(src))
		require.Equal(t, []int{here[2], here[3], 1000 + here[0]}, at(w.shards[2].DB))
	})
}

// The schema changes after the last look at it and before the fence.
func TestSchemaChangesBeforeTheFence(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 40)
		ctx := t.Context()
		id, j := w.moveOne(t, MoveOptions{step: func(name string) error {
			if name == "before fence" {
				_, err := w.shards[0].DB.Exec(`alter table t add column extra int`)
				return err
			}
			return nil
		}})
		require.ErrorIs(t, j.Wait(ctx), ErrSchemaChanged)
		w.write(w.c, id, 9, 0)
		require.Error(t, j.Abort(ctx), "the tables differ now")
		_, err := w.shards[0].DB.Exec(`alter table t drop column extra`)
		require.NoError(t, err)
		require.NoError(t, j.Abort(ctx))
		w.check()
	})
}

// One big database is the oracle: whatever is asked of the cluster while slots move, wait for Complete, and go back
// must be what it says.
func TestScatterAgainstOneDatabase(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 0)
		ctx := t.Context()
		big := p.Open("oracle")
		for _, q := range p.DDL {
			_, err := big.Exec(q)
			require.NoError(t, err)
		}
		next := 0
		add := func(n int) {
			for range n {
				id := next
				next++
				v := rand.IntN(20) + 1
				put := func(db interface {
					Exec(string, ...any) (sql.Result, error)
				}, s Slot) error {
					_, err := db.Exec(p.Bind(`insert into t (id, slot, v) values (?, ?, ?)`), id, int(s), v)
					if err == nil && id%3 == 2 {
						_, err = db.Exec(p.Bind(`update t set v = v + 1 where id = ?`), id)
					}
					if err == nil && id%5 == 4 {
						_, err = db.Exec(p.Bind(`delete from t where id = ?`), id)
					}
					return err
				}
				require.NoError(t, put(big, 0))
				require.NoError(t, w.c.Tx(ctx, Int(int64(id)), nil, func(tx *Tx) error { return put(tx, tx.Slot()) }))
			}
		}
		type item struct {
			id, v int64
			slot  Slot
		}
		scan := func(r *sql.Rows) (i item, err error) { return i, r.Scan(&i.id, &i.v, &i.slot) }
		const q = `select id, v, slot from t where v > 7 order by v desc, id`
		ask := func(when string) {
			var want []item
			rows, err := big.Query(q)
			require.NoError(t, err)
			defer rows.Close()
			for rows.Next() {
				i, err := scan(rows)
				require.NoError(t, err)
				want = append(want, i)
			}
			less := func(a, b item) bool { return a.v > b.v || a.v == b.v && a.id < b.id }
			for _, page := range [][2]int{{0, 0}, {0, 7}, {11, 13}, {len(want) - 1, 5}, {len(want) + 1, 5}} {
				res, err := Scatter(ctx, w.c, Query[item]{SQL: q, Scan: scan, SlotOf: func(i item) Slot {
					return i.slot
				}, Less: less, Offset: max(page[0], 0), Limit: page[1]})
				require.NoError(t, err, when)
				part := want[min(max(page[0], 0), len(want)):]
				if page[1] > 0 {
					part = part[:min(page[1], len(part))]
				}
				require.True(t, slices.EqualFunc(part, res.Rows, func(a, b item) bool {
					return a.id == b.id && a.v == b.v
				}), "%s: %v, want %v", when, res.Rows, part)
			}
			got, err := w.c.Aggregate(ctx, AggregateQuery{Table: "t", Expr: "v", Where: "v > 7"})
			require.NoError(t, err)
			var n int64
			var sum, lo, hi float64
			require.NoError(t, big.QueryRow(`select count(v), coalesce(sum(v), 0), coalesce(min(v), 0),
				coalesce(max(v), 0) from t where v > 7`).Scan(&n, &sum, &lo, &hi))
			require.Equal(t, Aggregate{Count: n, Sum: sum, Min: lo, Max: hi}, got, when)
		}
		add(100)
		ask("before")
		step := func(name string) error {
			// else a fence may be up, and we are the mover
			if slices.Contains([]string{"before capture", "mid copy", "before catchup", "before verify",
				"before fence"}, name) {
				add(1)
			}
			ask(name)
			return nil
		}
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 22, Chunk: 25, Reversible: true, step: step})
		require.NoError(t, err)
		require.NoError(t, j.WaitHold(ctx))
		require.NoError(t, j.Pause())
		for i := range 5 {
			add(3)
			ask(fmt.Sprint("between cutover and cleanup ", i))
		}
		j, err = j.Rollback(ctx)
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		add(5)
		ask("after")
	})
}
