package keyring

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/race"
)

func secret(b byte) []byte { return bytes.Repeat([]byte{b}, MinSecret) }

func TestRotation(t *testing.T) {
	r, err := New(Key{"a", secret(1)})
	require.NoError(t, err)
	old := r.Sign("cookie", []byte("hello"))
	sealed := r.Seal("cookie", []byte("hello"), []byte("aad"))
	require.NoError(t, r.Rotate(Key{"b", secret(2)}))
	require.True(t, strings.HasPrefix(r.Sign("cookie", nil), "b."))
	for _, s := range []string{old, r.Sign("cookie", []byte("hello"))} {
		msg, err := r.Verify("cookie", s)
		require.NoError(t, err)
		require.Equal(t, "hello", string(msg))
	}
	plain, err := r.Unseal("cookie", sealed, []byte("aad"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(plain))

	require.NoError(t, r.Drop("a"))
	_, err = r.Verify("cookie", old)
	require.ErrorIs(t, err, ErrBadSignature)
	_, err = r.Unseal("cookie", sealed, []byte("aad"))
	require.ErrorIs(t, err, ErrBadSignature)
	require.ErrorIs(t, r.Drop("b"), ErrBadKey, "the last key stays")
}

func TestPurposesAreApart(t *testing.T) {
	r, err := New()
	require.NoError(t, err)
	_, err = r.Verify("url", r.Sign("cookie", []byte("x")))
	require.ErrorIs(t, err, ErrBadSignature)
	_, err = r.Unseal("url", r.Seal("cookie", []byte("x"), nil), nil)
	require.ErrorIs(t, err, ErrBadSignature)
	_, err = r.Unseal("cookie", r.Seal("cookie", []byte("x"), []byte("id 1")), []byte("id 2"))
	require.ErrorIs(t, err, ErrBadSignature)
}

func TestPartsDoNotCollide(t *testing.T) {
	r, _ := New()
	id, mac := r.MAC(nil, "p", []byte("ab"), []byte("c"))
	require.True(t, r.CheckMAC("p", id, mac, []byte("ab"), []byte("c")))
	require.False(t, r.CheckMAC("p", id, mac, []byte("a"), []byte("bc")))
	require.False(t, r.CheckMAC("p", "nobody", mac, []byte("ab"), []byte("c")))
}

func TestBadKeys(t *testing.T) {
	for _, k := range []Key{{"", secret(1)}, {"a.b", secret(1)}, {strings.Repeat("x", 65), secret(1)},
		{"short", make([]byte, 31)}} {
		_, err := New(k)
		require.ErrorIs(t, err, ErrBadKey)
	}
	_, err := New(Key{"a", secret(1)}, Key{"a", secret(2)})
	require.ErrorContains(t, err, "twice")
}

func TestMACDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	r, _ := New()
	msg, buf := []byte("some message"), make([]byte, 0, 64)
	id, mac := r.MAC(nil, "p", msg)
	parts := [][]byte{msg}
	require.Zero(t, testing.AllocsPerRun(100, func() { r.MAC(buf[:0], "p", parts...) }))
	require.Zero(t, testing.AllocsPerRun(100, func() { r.CheckMAC("p", id, mac, parts...) }))
}

// Every single-bit change of a signed or sealed value is refused, and nothing panics.
func FuzzVerify(f *testing.F) {
	r, _ := New(Key{"k1", secret(7)})
	f.Add(r.Sign("p", []byte("message")), 5)
	f.Add(string(r.Seal("p", []byte("message"), nil)), 3)
	f.Add("", 0)
	f.Add("..", 1)
	f.Fuzz(func(t *testing.T, s string, bit int) {
		msg, err := r.Verify("p", s)
		if err == nil && r.Sign("p", msg) != s {
			t.Fatalf("%q verifies but is not what Sign makes", s)
		}
		if plain, err := r.Unseal("p", []byte(s), nil); err == nil && len(s) > 0 {
			b := []byte(s)
			b[len(b)-1] ^= 1 << (uint(bit) % 8)
			if _, err := r.Unseal("p", b, nil); err == nil {
				t.Fatalf("a changed seal of %q opens", plain)
			}
		}
	})
}

func BenchmarkMAC(b *testing.B) {
	r, _ := New()
	parts, buf := [][]byte{make([]byte, 64)}, make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		r.MAC(buf[:0], "p", parts...)
	}
}
