package shard

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestAggregate(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 64, 60) // 30 rows
		ctx := t.Context()
		ask := func(string) error {
			a, err := w.c.Aggregate(ctx, AggregateQuery{Table: "t", Expr: "id"})
			require.NoError(t, err)
			require.EqualValues(t, 30, a.Count)
			require.EqualValues(t, 870, a.Sum)
			require.EqualValues(t, 0, a.Min)
			require.EqualValues(t, 58, a.Max)
			require.EqualValues(t, 29, a.Avg())
			return nil
		}
		j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{step: ask})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		a, err := w.c.Aggregate(ctx, AggregateQuery{Table: "t", Where: p.Bind("id < ?"), Args: []any{10}})
		require.NoError(t, err)
		require.EqualValues(t, 5, a.Count)
		_, err = w.c.Aggregate(ctx, AggregateQuery{Table: "nope"})
		require.ErrorContains(t, err, "Table")
		w.check()
	})
}
