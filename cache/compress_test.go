package cache_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

func TestCompressed(t *testing.T) {
	c := cache.Compressed[[]byte]{Codec: cache.Bytes{}}
	for _, n := range []int{0, 1, 1000, 1024, 5000, 1 << 20} {
		for _, data := range [][]byte{bytes.Repeat([]byte("tier"), n/4), random(n)} {
			b, err := c.Encode(data)
			require.NoError(t, err)
			require.LessOrEqual(t, len(b), len(data)+1, "never more than a byte larger")
			if n >= 5000 && bytes.HasPrefix(data, []byte("tiertier")) {
				require.Less(t, len(b), len(data)/10)
			}
			got, err := c.Decode(b)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		}
	}
	text := cache.Compressed[map[string]string]{MinBytes: -1}
	v := map[string]string{"name": strings.Repeat("Ada", 100)}
	b, err := text.Encode(v)
	require.NoError(t, err)
	require.Less(t, len(b), 60)
	got, err := text.Decode(b)
	require.NoError(t, err)
	require.Equal(t, v, got)
}

// What others have written cannot fill the memory, and what is not ours is an error.
func TestCompressedRefuses(t *testing.T) {
	large := cache.Compressed[[]byte]{Codec: cache.Bytes{}}
	small := cache.Compressed[[]byte]{Codec: cache.Bytes{}, MaxBytes: 1000}
	bomb, err := large.Encode(make([]byte, 10<<20))
	require.NoError(t, err)
	require.Less(t, len(bomb), 100<<10)
	_, err = small.Decode(bomb)
	require.ErrorIs(t, err, cache.ErrDecompress)
	_, err = small.Encode(make([]byte, 1001))
	require.ErrorContains(t, err, "MaxBytes")
	for _, b := range [][]byte{nil, {7}, {1}, {1, 255, 255}, bomb[:len(bomb)/2]} {
		_, err := large.Decode(b)
		require.ErrorIs(t, err, cache.ErrDecompress)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func FuzzCompressed(f *testing.F) {
	c := cache.Compressed[[]byte]{Codec: cache.Bytes{}, MinBytes: 16, MaxBytes: 1 << 16}
	f.Add([]byte("\x00plain"))
	f.Add([]byte("\x01\x4b\x04\x00"))
	seed, err := c.Encode(bytes.Repeat([]byte("x"), 100))
	require.NoError(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := c.Decode(b); err == nil && len(v) > 1<<16 {
			t.Fatal(len(v))
		}
		if len(b) > 1<<16 {
			return
		}
		e, err := c.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.Decode(e); err != nil || !bytes.Equal(v, b) {
			t.Fatal(err, v, b)
		}
	})
}
