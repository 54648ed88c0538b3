package lb_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
)

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := lb.New(lbtest.Endpoints(1),
			lb.Options{Policy: policy.WeightedRoundRobin(), SlowStart: 10 * time.Second})
		require.NoError(t, err)
		defer b.Close()
		require.Equal(t, 1.0, b.Backends()[0].Weight(), "a pool that starts does not ramp")
		require.NoError(t, b.Update(lbtest.Endpoints(2)))
		require.InDelta(t, 0.09, float64(share(t, b, 1100)["b01"])/1100, 0.02)
		time.Sleep(5100 * time.Millisecond)
		require.InDelta(t, 0.33, float64(share(t, b, 1100)["b01"])/1100, 0.03)
		time.Sleep(6 * time.Second)
		require.InDelta(t, 0.5, float64(share(t, b, 1100)["b01"])/1100, 0.01)
	})
}

func share(t *testing.T, b *lb.Balancer, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		l, err := b.Pick(t.Context(), lb.Key{})
		require.NoError(t, err)
		got[l.Backend().ID()]++
		l.Done(lb.Result{Status: 200, Latency: time.Millisecond})
	}
	return got
}
