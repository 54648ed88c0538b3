package lb

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEWMA(t *testing.T) {
	var e ewma
	e.observe(0.010, 1000, fadeRate(10))
	require.InDelta(t, 0.010, e.at(1000, fadeRate(10)), 1e-6)
	e.observe(0.500, 1100, fadeRate(10))
	require.InDelta(t, 0.500, e.at(1100, fadeRate(10)), 1e-6, "a peak counts at once")
	e.observe(0.010, 1100+10_000, fadeRate(10))
	require.InDelta(t, 0.5/math.E+0.01*(1-1/math.E), e.at(11_100, fadeRate(10)), 1e-4, "then it decays")
	require.Less(t, e.at(60_000, fadeRate(10)), 0.01, "also without traffic")
}

func TestFading(t *testing.T) {
	for x := 0.0; x < 12; x += 0.01 {
		require.InDelta(t, math.Exp(-x), fading(x*fadeSteps), 4e-4, x)
	}
}
