package wire_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/wire"
)

func record() []byte {
	b := binary.AppendUvarint(nil, math.MaxUint64)
	b = binary.AppendVarint(b, math.MinInt64)
	b = append(b, 7)
	b = wire.AppendString(b, "text")
	b = wire.AppendString(b, "")
	return binary.LittleEndian.AppendUint64(b, 1<<63)
}

func read(b []byte) (r wire.Reader, ok bool) {
	r.B = b
	ok = r.Uvarint() == math.MaxUint64
	ok = r.Varint() == math.MinInt64 && ok
	ok = r.Byte() == 7 && ok
	ok = r.String() == "text" && ok
	ok = r.String() == "" && ok
	ok = r.Uint64() == 1<<63 && ok
	return r, ok
}

func TestReader(t *testing.T) {
	whole := record()
	r, ok := read(whole)
	require.True(t, ok)
	require.False(t, r.Bad)
	require.Empty(t, r.B)
	for n := range whole { // cut anywhere
		r, ok := read(whole[:n])
		require.True(t, r.Bad, n)
		require.False(t, ok, n)
		require.Nil(t, r.B)
		require.Zero(t, r.Uvarint())
		require.Nil(t, r.Bytes())
	}
	r = wire.Reader{B: binary.AppendUvarint(nil, math.MaxUint64)} // a length that nothing has
	require.Nil(t, r.Bytes())
	require.True(t, r.Bad)
}
