package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPartsSpreadAKey(t *testing.T) {
	c := router(t, 4, Options{})
	owners := map[ID]bool{}
	parts := Parts(String("star"), 32)
	for _, k := range parts {
		owners[c.Map().Owner(c.Slot(k))] = true
	}
	require.Len(t, owners, 4)
	for range 100 {
		require.Contains(t, parts, Part(String("star"), 32))
	}
	require.Equal(t, []Key{Int(7)}, Parts(Int(7), 1))
	require.Equal(t, Int(7), Part(Int(7), 0))
	require.Equal(t, String("7#1"), Parts(Int(7), 2)[1])
}
