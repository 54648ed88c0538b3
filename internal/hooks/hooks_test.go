package hooks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJoin(t *testing.T) {
	var got []string
	note := func(s string) func(int, string) { return func(n int, x string) { got = append(got, s) } }
	Join2(note("a"), note("b"))(1, "x")
	Join2(nil, note("c"))(1, "x")
	Join2(note("d"), nil)(1, "x")
	require.Equal(t, []string{"a", "b", "c", "d"}, got)
	require.Nil(t, Join2[int, string](nil, nil))
	require.Nil(t, Join1[int](nil, nil))
}
