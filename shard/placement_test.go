package shard

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/stored"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func freshShards(t *testing.T, p *testdb.Kind) (shards []Shard) {
	for i := range 3 {
		db := p.Open(fmt.Sprint("s", i))
		for _, q := range p.DDL {
			_, err := db.Exec(q)
			require.NoError(t, err)
		}
		shards = append(shards, Shard{ID: ID(fmt.Sprint("s", i)), DB: db})
	}
	return shards
}

// Orders by date: a slot per month, old months on their own shard, a question about two months asks only who has them.
func TestRangePlacement(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		ctx := t.Context()
		shards := freshShards(t, p)
		const month = 30
		c, err := New(ctx, MemoryStore(), shards,
			Options{Dialect: Dialect{p.Database}, Tables: testTables, Slots: 16, Placement: Range(month), Refresh: -1,
				MapTTL: leaseForTests})
		require.NoError(t, err)
		defer c.Close()
		for id := int64(1); id < 480; id += 7 {
			require.NoError(t, c.Tx(ctx, Int(id), nil, func(tx *Tx) error {
				_, err := tx.Exec(p.Bind(`insert into t (id, slot, v) values (?, ?, 1)`), id, int(tx.Slot()))
				return err
			}), "the state rows fit")
		}
		old := c.Map().RangeSlots(0, 4*month-1)
		require.Equal(t, []Slot{0, 1, 2, 3}, old)
		plan, err := c.Plan(ctx, Change{Slots: old, To: "s2"})
		require.NoError(t, err)
		j, err := c.Move(ctx, plan, MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		type order struct {
			id   int64
			slot Slot
		}
		q := Query[order]{SQL: p.Bind(`select id, slot from t where id between ? and ? order by id`),
			Args: []any{40, 99}, SlotOf: func(o order) Slot {
				return o.slot
			},
			Scan: func(r *sql.Rows) (o order, err error) {
				return o, r.Scan(&o.id, &o.slot)
			}, Less: func(a, b order) bool { return a.id < b.id }, Only: c.Map().RangeSlots(40, 99)}
		res, err := Scatter(ctx, c, q)
		require.NoError(t, err)
		require.Equal(t, []int64{43, 50, 57, 64, 71, 78, 85, 92, 99}, ids(res.Rows, func(o order) int64 {
			return o.id
		}))
		require.NoError(t, shards[0].DB.Close())
		_, err = Scatter(ctx, c, q)
		require.NoError(t, err, "the shard that is away has none of these months")
		q.Only = nil
		_, err = Scatter(ctx, c, q)
		require.Error(t, err)
	})
	m, err := newMap(&stored.State{Epoch: 1, HashVersion: 1, Slots: 8, RangeWidth: 10, Shards: []string{"a"},
		Owners: make(stored.Owners, 8)})
	require.NoError(t, err)
	for n, want := range map[int64]Slot{0: 0, 9: 0, 10: 1, 79: 7, 80: 0, -1: 7, -10: 7, -11: 6} {
		require.Equal(t, want, m.SlotOf(Int(n)), n)
		require.Equal(t, want, m.SlotUint64(uint64(n)), n)
	}
	require.Equal(t, []Slot{7, 0, 1}, m.RangeSlots(-5, 15))
	require.Len(t, m.RangeSlots(0, 1<<62), 8)
	require.NotEqual(t, m.SlotOf(String("a")), m.SlotOf(String("c")), "text is hashed")
}

// Products by category: each category is where the list says, and moves as a whole.
func TestDirectory(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		ctx := t.Context()
		shards := freshShards(t, p)
		tables := []Table{{Name: "u", Key: []string{"a", "b"}, By: []string{"a"}}}
		store := MemoryStore()
		open := func() *Cluster {
			c, err := New(ctx, store, shards,
				Options{Dialect: Dialect{p.Database}, Tables: tables, Slots: 16, Placement: Directory(), Refresh: -1,
					MapTTL: leaseForTests})
			require.NoError(t, err)
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		c, other := open(), open()
		add := func(c *Cluster, category string, n int) error {
			return c.Tx(ctx, String(category), nil, func(tx *Tx) error {
				_, err := tx.Exec(p.Bind(`insert into u (a, b, slot) values (?, ?, ?)`), category, n, int(tx.Slot()))
				return err
			})
		}
		require.ErrorIs(t, add(c, "books", 1), ErrUnassigned)
		s, err := c.Assign(ctx, String("books"), "s0")
		require.NoError(t, err)
		require.EqualValues(t, 16, s)
		_, err = other.Assign(ctx, String("books"), "s1")
		require.ErrorIs(t, err, ErrConflict)
		s, err = other.Assign(ctx, String("music"), "s1")
		require.NoError(t, err)
		require.EqualValues(t, 17, s)
		require.NoError(t, c.Refresh(ctx))
		for n := range 5 {
			require.NoError(t, add(c, "books", n))
			require.NoError(t, add(c, "music", n))
		}
		plan, err := c.Plan(ctx, Change{Slots: []Slot{16}, To: "s2"})
		require.NoError(t, err)
		require.EqualValues(t, 5, plan.Rows)
		j, err := c.Move(ctx, plan, MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		require.NoError(t, add(other, "books", 5), "with an old map")
		var n int
		require.NoError(t, shards[2].DB.QueryRow(`select count(*) from u`).Scan(&n))
		require.Equal(t, 6, n)
		hashed, err := New(ctx, MemoryStore(), []Shard{{ID: "s0", DB: p.Open("hashed")}}, Options{})
		require.NoError(t, err)
		defer hashed.Close()
		_, err = hashed.Assign(ctx, String("x"), "s0")
		require.ErrorContains(t, err, "placement Directory")
	})
}
