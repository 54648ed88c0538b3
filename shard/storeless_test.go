package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/placement"
)

func TestStoreless(t *testing.T) {
	var nodes []string
	for i := range 20 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	ring, less := NewRing(nodes, 0), NewRing(nodes[1:], 0)
	const keys = 20_000
	spread := map[string]int{}
	grown := 0
	for i := range keys {
		k := fmt.Sprint("key", i)
		// A node that leaves takes only its own keys along.
		if n := ring.Node(k); n != "n0" {
			require.Equal(t, n, less.Node(k))
		}
		n := Rendezvous(k, nodes)
		if n != "n0" {
			require.Equal(t, n, Rendezvous(k, nodes[1:]))
		}
		spread[n]++
		h := placement.HashString(k)
		a, b := Jump(h, 20), Jump(h, 21)
		if a != b {
			require.Equal(t, 20, b, "only to the new one")
			grown++
		}
	}
	for n, c := range spread {
		require.InDelta(t, keys/20, c, 200, n)
	}
	require.InDelta(t, keys/21, grown, 150)
	require.Empty(t, Rendezvous("k", nil))
	require.Empty(t, NewRing(nil, 0).Node("k"))
	require.Zero(t, Jump(7, 0))
}

func TestAnalyze(t *testing.T) {
	c := router(t, 4, Options{})
	var sample []Key
	for i := range 10_000 {
		sample = append(sample, Int(int64(i)))
	}
	even := c.Map().Analyze(sample)
	require.InDelta(t, 1, even.MaxShard, 0.1)
	require.Equal(t, 10_000, even.Distinct)
	for range 10_000 {
		sample = append(sample, String("celebrity"))
	}
	hot := c.Map().Analyze(sample)
	require.Greater(t, hot.MaxShard, 2.0)
	require.Equal(t, "celebrity", hot.Hottest[0].Key.String())
	require.InDelta(t, 0.5, hot.Hottest[0].Share, 0.01)
	require.Len(t, hot.Hottest, 10)
	require.Zero(t, c.Map().Analyze(nil).Distinct)
}

func TestAggregate(t *testing.T) {
	eachPlace(t, func(t *testing.T, p *place) {
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
		a, err := w.c.Aggregate(ctx, AggregateQuery{Table: "t", Where: p.d.bind("id < ?"), Args: []any{10}})
		require.NoError(t, err)
		require.EqualValues(t, 5, a.Count)
		_, err = w.c.Aggregate(ctx, AggregateQuery{Table: "nope"})
		require.ErrorContains(t, err, "Table")
		w.check()
	})
}
