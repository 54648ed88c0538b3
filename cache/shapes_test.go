package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

// shape writes, overwrites and reads entries of one pair of types. On 32-bit systems a 64-bit atomic operation on an
// address that is no multiple of eight panics.
func shape[K comparable, V any](t *testing.T, key K, one, two V) {
	t.Helper()
	for _, ttl := range []time.Duration{0, time.Hour} {
		c, err := cache.New(cache.Options[K, V]{MaxEntries: 100, TTL: ttl})
		require.NoError(t, err)
		for _, v := range []V{one, two, one} {
			c.Set(key, v)
			got, ok := c.Get(key)
			require.True(t, ok)
			require.Equal(t, v, got)
		}
		require.NoError(t, c.Close())
	}
}

func TestShapesOfKeysAndValues(t *testing.T) {
	shape(t, int32(1), int64(1), int64(2))
	shape(t, true, 1.5, 2.5)
	shape(t, uint8(1), uint64(1), uint64(2))
	shape(t, int16(1), int(1), int(2))
	shape(t, "k", int64(1), int64(2))
	shape(t, [3]byte{1}, int64(1), int64(2))
	shape(t, int64(1), int32(1), int32(2))
	shape(t, int32(1), &[]int{1}[0], &[]int{2}[0])
	shape(t, int8(1), [2]int64{1, 2}, [2]int64{3, 4})
}
