package httpfield

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFields(t *testing.T) {
	for s, want := range map[string]bool{"X-A": true, "": false, "a b": false, "a:": false, "a\x00": false, "é": false,
		"~": true} {
		require.Equal(t, want, IsName(s), s)
	}
	for s, want := range map[string]bool{"": true, "a b\tc": true, "a\nb": false, "a\rb": false, "\x7f": false,
		"é": true} {
		require.Equal(t, want, IsValue(s), s)
	}
	for s, want := range map[string]bool{"a.example:80": true, "[::1]:80": true, "a b": false, "a/b": false,
		"a\r": false, "": true} {
		require.Equal(t, want, IsHost(s), s)
	}
	require.True(t, Lists([]string{"a, B", "c"}, "b"))
	require.False(t, Lists([]string{"ab"}, "b"))
	require.True(t, IsTrailer("X-Sum"))
	require.False(t, IsTrailer("Content-Length"))
	require.False(t, IsTrailer("If-Match"))
}
