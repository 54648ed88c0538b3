package site

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// Any part of a file is the same, however it is read.
func TestContent(t *testing.T) {
	const size = 1003
	all, err := io.ReadAll(&content{seed: 42, size: size})
	require.NoError(t, err)
	require.Len(t, all, size)
	require.NoError(t, iotest.TestReader(&content{seed: 42, size: size}, all))
	for from := range size {
		c := &content{seed: 42, size: size}
		_, err := c.Seek(int64(from), io.SeekStart)
		require.NoError(t, err)
		part := make([]byte, min(29, size-from))
		_, err = io.ReadFull(c, part)
		require.NoError(t, err)
		require.Equal(t, all[from:from+len(part)], part)
	}
	other, _ := io.ReadAll(&content{seed: 43, size: size})
	require.False(t, bytes.Equal(all, other))
}

func TestResizeRefusesNonsense(t *testing.T) {
	_, err := resize([]byte("GIF89a"))
	require.Error(t, err)
}
