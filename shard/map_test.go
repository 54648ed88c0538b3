package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/shard/internal/stored"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// unconnected databases: routing opens no connection.
func fakeShards(t testing.TB, n int) (out []Shard) {
	for i := range n {
		db, err := sql.Open("sqlite", "file:unused")
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		out = append(out, Shard{ID: ID(fmt.Sprintf("s%03d", i)), DB: db})
	}
	return out
}

func router(t testing.TB, n int, o Options) *Cluster {
	c, err := New(context.Background(), MemoryStore(), fakeShards(t, n), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestMapRoutesLikePlacement(t *testing.T) {
	c := router(t, 10, Options{})
	m := c.Map()
	require.Equal(t, 16384, m.Slots())
	for i := range 1000 {
		k := fmt.Sprint("key", i)
		require.EqualValues(t, placement.SlotOf(placement.HashString(k), 16384), m.Slot(k))
		require.EqualValues(t, placement.SlotOf(placement.HashUint64(uint64(i)), 16384), m.SlotUint64(uint64(i)))
		require.Equal(t, m.Slot(k), m.SlotOf(String(k)))
		require.Equal(t, m.SlotUint64(uint64(i)), m.SlotOf(Int(int64(i))))
	}
	require.NotEqual(t, m.SlotOf(Composite("ab", "c")), m.SlotOf(Composite("a", "bc")))
	for _, n := range m.Counts() {
		require.InDelta(t, 1638.4, n, 1)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { m.Owner(m.Slot("some key")); m.Owner(m.SlotUint64(7)) }))
}

func TestAddingShard101Moves162Slots(t *testing.T) {
	c := router(t, 101, Options{})
	weights := map[ID]float64{}
	for i := range 100 {
		weights[ID(fmt.Sprintf("s%03d", i))] = 1
	}
	p, err := c.Plan(t.Context(), Change{Weights: weights}) // take the last one away
	require.NoError(t, err)
	require.Len(t, p.Moves, 162)
	for _, m := range p.Moves {
		require.EqualValues(t, "s100", m.From)
	}
}

func TestStateRoundTrip(t *testing.T) {
	st, err := firstState(fakeShards(t, 3), &Options{Slots: 64})
	require.NoError(t, err)
	require.NoError(t, st.SetPin("scelebrity", 64, "s002"))
	b, err := json.Marshal(&State{*st})
	require.NoError(t, err)
	var read State
	require.NoError(t, json.Unmarshal(b, &read))
	require.Equal(t, *st, read.in)
	back := read.in
	m, err := newMap(&back)
	require.NoError(t, err)
	require.EqualValues(t, 64, m.Slot("celebrity"))
	require.EqualValues(t, "s002", m.Owner(m.Slot("celebrity")))
	require.Less(t, m.Slot("somebody"), Slot(64))
	back.HashVersion++
	_, err = newMap(&back)
	require.ErrorIs(t, err, ErrHashVersion)
}

func TestModulo(t *testing.T) {
	c := router(t, 3, Options{Placement: Modulo(3)})
	for id := range int64(1000) {
		require.EqualValues(t, fmt.Sprintf("s%03d", id%3), c.Map().Owner(c.Slot(Int(id))))
	}
}

func TestStores(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		ctx := t.Context()
		db := p.Open("meta")
		for _, s := range []MapStore{MemoryStore(), SQLStore(db, Dialect{p.Database})} {
			_, err := s.Load(ctx)
			require.ErrorIs(t, err, ErrNoMap)
			st := &State{stored.State{Epoch: 1, Slots: 2, Shards: []string{"a"}, Owners: stored.Owners{0, 0}}}
			require.NoError(t, s.CompareAndSwap(ctx, 0, st))
			require.ErrorIs(t, s.CompareAndSwap(ctx, 0, st), ErrConflict)
			var won sync.Map
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					next := st.in.Next()
					next.Token = uint64(i)
					if s.CompareAndSwap(ctx, 1, &State{*next}) == nil {
						won.Store(i, true)
					}
				})
			}
			wg.Wait()
			n := 0
			won.Range(func(any, any) bool { n++; return true })
			require.Equal(t, 1, n)
			got, err := s.Load(ctx)
			require.NoError(t, err)
			require.EqualValues(t, 2, got.Epoch())
		}
	})
}

func TestCrossShard(t *testing.T) {
	w := newWorld(t, testdb.SQLite(t), 2, 64, 4)
	m := w.c.Map()
	same, other := int64(-1), int64(-1)
	for i := int64(1); same < 0 || other < 0; i++ {
		if m.Owner(m.SlotUint64(uint64(i))) == m.Owner(m.SlotUint64(0)) {
			same = i
		} else {
			other = i
		}
	}
	err := w.c.Tx(t.Context(), Int(0), nil, func(tx *Tx) error {
		_, err := tx.SlotOf(Int(same))
		require.NoError(t, err)
		_, err = tx.SlotOf(Int(other))
		return err
	})
	require.ErrorIs(t, err, ErrCrossShard)
	require.EqualValues(t, 1, w.c.Stats().CrossShard)
}

func TestHotKeys(t *testing.T) {
	c := router(t, 2, Options{})
	for i := range 20_000 {
		_, _, err := c.route(c.view.Load(), Int(int64(i)))
		require.NoError(t, err)
		if i%4 == 0 {
			_, _, err = c.route(c.view.Load(), String("celebrity"))
			require.NoError(t, err)
		}
	}
	hot := c.HotKeys(3)
	require.NotEmpty(t, hot)
	require.Equal(t, "celebrity", hot[0].Key.String())
	require.InDelta(t, 5000, hot[0].Count, 1200) // one in eight is counted: a standard deviation is 190
	require.Equal(t, c.Slot(String("celebrity")), hot[0].Slot)
	require.LessOrEqual(t, len(hot), 3)
	st := c.Stats()
	require.EqualValues(t, 25_000, st.Routed)
	require.Len(t, st.Shards, 2)
}
