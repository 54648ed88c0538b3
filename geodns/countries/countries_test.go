package countries

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKnownAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"1.0.1.1": "CN", "133.11.0.1": "JP", "18.0.0.1": "US", "193.0.6.139": "NL", "212.58.244.20": "GB",
		"200.160.2.3": "BR", "129.187.254.1": "DE", "10.0.0.1": "", "127.0.0.1": "", "224.0.0.1": "",
		"2001:200::1": "AU", "2001:4ca0::1": "DE", "2001:660::1": "FR", "::1": "", "fe80::1": "",
	} {
		at, scope := Table().Locate(netip.MustParseAddr(addr))
		require.Equal(t, want, at.Country, addr)
		require.True(t, scope.Contains(netip.MustParseAddr(addr)), "%s: %v", addr, scope)
		if want != "" {
			require.True(t, at.HasCoords)
			require.Equal(t, Continent(want), at.Continent)
		}
	}
	v4, v6 := Table().Len()
	require.Greater(t, v4, 200_000)
	require.Greater(t, v6, 100_000)
	require.Less(t, len(packed), 2<<20)
}

func TestDamagedDataIsAnError(t *testing.T) {
	for n := range 12 {
		_, err := decode(packed[:n*len(packed)/12])
		require.Error(t, err)
	}
}

func BenchmarkLocate(b *testing.B) {
	t := Table()
	ip := uint32(1)
	for b.Loop() {
		ip = ip*1664525 + 1013904223
		t.Locate(netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}))
	}
}
