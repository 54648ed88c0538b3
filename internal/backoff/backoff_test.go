package backoff

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDelayGrowsToMax(t *testing.T) {
	p := Policy{Base: 10 * time.Millisecond, Max: time.Second, NoJitter: true}
	want := []time.Duration{10, 20, 40, 80, 160, 320, 640, 1000, 1000}
	for i, w := range want {
		require.Equal(t, w*time.Millisecond, p.Delay(i))
	}
	require.Equal(t, time.Second, p.Delay(1<<20), "an overflowing power is the cap")
	require.Equal(t, 10*time.Millisecond, p.Delay(-3))
}

func TestJitterStaysInBounds(t *testing.T) {
	var p Policy
	var sum time.Duration
	for range 10_000 {
		d := p.Delay(2)
		require.Greater(t, d, time.Duration(0))
		require.LessOrEqual(t, d, 200*time.Millisecond)
		sum += d
	}
	mean := sum / 10_000
	require.InDelta(t, float64(100*time.Millisecond), float64(mean), float64(5*time.Millisecond),
		"full jitter is uniform")
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		require.NoError(t, Sleep(t.Context(), time.Hour))
		require.Equal(t, time.Hour, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, Sleep(ctx, time.Hour), context.DeadlineExceeded)
		require.Equal(t, time.Hour+time.Minute, time.Since(start))
	})
}
