package advise

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testcluster"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestSuggest(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := testcluster.New(t, p, 2, 64)
		w.Fill(t, p, 600) // 300 rows and as many in u
		ctx := t.Context()
		plan, err := Suggest(ctx, w.Cluster, Limits{Rows: 1000})
		require.NoError(t, err)
		require.Empty(t, plan.Moves, "nobody is over")
		use, err := Measure(ctx, w.Cluster)
		require.NoError(t, err)
		require.Len(t, use, 3)
		require.EqualValues(t, 600, use[0].Rows+use[1].Rows)
		require.Positive(t, use[0].Bytes)
		require.InDelta(t, 1, use[0].Load+use[1].Load, 1e-9)
		plan, err = Suggest(ctx, w.Cluster, Limits{Rows: 250})
		require.NoError(t, err)
		j, err := w.Move(ctx, plan, shard.MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		use, err = Measure(ctx, w.Cluster)
		require.NoError(t, err)
		for _, u := range use {
			require.LessOrEqual(t, u.Rows, int64(210), u.Shard)
		}
		_, err = Suggest(ctx, w.Cluster, Limits{Rows: 150})
		require.ErrorIs(t, err, ErrNoRoom)
		_, err = Suggest(ctx, w.Cluster, Limits{Fill: 2})
		require.ErrorContains(t, err, "Fill")
	})
	hot, err := suggest(1, []Usage{{Shard: "a", Load: 0.9, slots: map[shard.Slot]int64{1: 10, 2: 10, 3: 10}},
		{Shard: "b", Load: 0.1}}, map[shard.Slot]float64{2: 0.5}, Limits{Load: 0.6, Fill: 1})
	require.NoError(t, err)
	require.Equal(t, []shard.SlotMove{{Slot: 1, From: "a", To: "b"}, {Slot: 3, From: "a", To: "b"}}, hot.Moves,
		"the hottest fits nowhere else; the cold ones are enough")
}

func TestAutoPin(t *testing.T) {
	w := testcluster.New(t, testdb.SQLite(t), 2, 16)
	w.Fill(t, testdb.SQLite(t), 60)
	ctx := t.Context()
	j, err := AutoPin(ctx, w.Cluster, AutoPinOptions{Share: 0.9})
	require.NoError(t, err)
	require.Nil(t, j, "nobody is hot")
	for range 500 {
		require.NoError(t, w.Do(ctx, shard.Int(8), func(context.Context, *sql.DB, shard.Slot) error { return nil }))
	}
	from := w.Map().Owner(w.Slot(shard.Int(8)))
	j, err = AutoPin(ctx, w.Cluster, AutoPinOptions{})
	require.NoError(t, err)
	require.NotNil(t, j)
	_, err = AutoPin(ctx, w.Cluster, AutoPinOptions{})
	require.ErrorIs(t, err, shard.ErrMoving)
	require.NoError(t, j.Wait(ctx))
	require.NotEqual(t, from, w.Map().Owner(w.Slot(shard.Int(8))))
	j, err = AutoPin(ctx, w.Cluster, AutoPinOptions{})
	require.NoError(t, err)
	require.Nil(t, j, "it is pinned")
	_, err = AutoPin(ctx, w.Cluster, AutoPinOptions{Share: 2})
	require.ErrorContains(t, err, "Share")
}

func TestAnalyze(t *testing.T) {
	c := testcluster.New(t, testdb.SQLite(t), 4, 0)
	var sample []shard.Key
	for i := range 10_000 {
		sample = append(sample, shard.Int(int64(i)))
	}
	even := Analyze(c.Map(), sample)
	require.InDelta(t, 1, even.MaxShard, 0.1)
	require.Equal(t, 10_000, even.Distinct)
	for range 10_000 {
		sample = append(sample, shard.String("celebrity"))
	}
	hot := Analyze(c.Map(), sample)
	require.Greater(t, hot.MaxShard, 2.0)
	require.Equal(t, "celebrity", hot.Hottest[0].Key.String())
	require.InDelta(t, 0.5, hot.Hottest[0].Share, 0.01)
	require.Len(t, hot.Hottest, 10)
	require.Zero(t, Analyze(c.Map(), nil).Distinct)
}
