package countries

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/geodns"
)

// A resolver that caches an answer for its scope gives it to neighbors: 300 random /24s, four neighbors each, and no
// one is sent to a center that is not his.
func TestNoUnsoundScopeOnRealData(t *testing.T) {
	r, err := geodns.NewRouter(geodns.RouterOptions{Locator: Table(), DCs: []geodns.DC{
		{Name: "us", Lat: 39, Lon: -77}, {Name: "eu", Lat: 53, Lon: -6}, {Name: "ap", Lat: 1, Lon: 104},
		{Name: "sa", Lat: -23, Lon: -46},
	}})
	require.NoError(t, err)
	defer r.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	unsound, bits := 0, 0
	for range 300 {
		a := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(222)), byte(rng.IntN(256)), byte(rng.IntN(256)), 0})
		d := r.Route(a)
		bits += d.Scope.Bits()
		for range 4 {
			b := a.As4()
			mask := uint32(0xffffffff)
			if d.Scope.Bits() < 32 {
				mask = rng.Uint32() >> d.Scope.Bits()
			} else {
				mask = 0
			}
			v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
			v ^= mask
			n := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
			require.True(t, d.Scope.Contains(n))
			if r.Route(n).DC != d.DC {
				unsound++
			}
		}
	}
	require.Zero(t, unsound, "of 1200")
	t.Logf("mean scope %.1f", float64(bits)/300)
}
