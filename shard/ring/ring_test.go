package ring

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/placement"
)

func TestPlacement(t *testing.T) {
	var nodes []string
	for i := range 20 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	ring, less := New(nodes, 0), New(nodes[1:], 0)
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
	require.Empty(t, New(nil, 0).Node("k"))
	require.Zero(t, Jump(7, 0))
}
