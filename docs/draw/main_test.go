package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The picture in the repository is the one that its text makes.
func TestPictureIsCurrent(t *testing.T) {
	text, err := os.ReadFile("../architecture.txt")
	require.NoError(t, err)
	want, err := draw(string(text))
	require.NoError(t, err)
	got, err := os.ReadFile("../architecture.svg")
	require.NoError(t, err)
	require.Equal(t, want, string(got), "run: go run ./docs/draw")
}

func TestBadText(t *testing.T) {
	_, err := draw("== a\nx: box\nx > y\n")
	require.ErrorContains(t, err, "line 3")
}
