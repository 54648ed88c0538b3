package expo

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogramBucketsAreNative(t *testing.T) {
	for range 100_000 {
		d := time.Duration(rand.Uint64() >> (1 + rand.IntN(60)))
		i := Bucket(d)
		if i > 0 && i < NumBuckets-1 {
			require.LessOrEqual(t, d.Seconds(), Upper(i)*(1+1e-15), d)
			require.Greater(t, d.Seconds(), Upper(i-1)*(1-1e-15), d)
		}
	}
	require.Equal(t, 0, Bucket(0))
	require.Equal(t, NumBuckets-1, Bucket(math.MaxInt64))
	require.Equal(t, 1.0, Upper(-firstIndex), "index 0 of schema 3 ends at 1")
	require.Equal(t, -firstIndex, Bucket(time.Second), "and includes it")
}

func TestSizeBuckets(t *testing.T) {
	for n := uint64(1); n < 1<<30; n = n*5/4 + 1 {
		i := sizeBucket(n)
		require.LessOrEqual(t, float64(n), sizeBounds.values[i])
		if i > 0 {
			require.Greater(t, float64(n), sizeBounds.values[i-1])
		}
	}
	require.Equal(t, 0, sizeBucket(64))
	require.Equal(t, 1, sizeBucket(65))
	require.Equal(t, sizeBuckets-1, sizeBucket(math.MaxInt64))
}
