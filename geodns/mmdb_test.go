package geodns

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/stretchr/testify/require"
)

func TestOpenMMDB(t *testing.T) {
	w, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-City", IncludeReservedNetworks: true})
	require.NoError(t, err)
	for cidr, at := range map[string]struct {
		iso, continent string
		lat, lon       float64
	}{"10.1.0.0/16": {"US", "NA", 37.75, -97.8}, "10.2.0.0/16": {"DE", "EU", 51.3, 9.5},
		"2001:db8:2::/48": {"DE", "EU", 51.3, 9.5}} {
		_, n, err := net.ParseCIDR(cidr)
		require.NoError(t, err)
		require.NoError(t, w.Insert(n, mmdbtype.Map{
			"country":   mmdbtype.Map{"iso_code": mmdbtype.String(at.iso)},
			"continent": mmdbtype.Map{"code": mmdbtype.String(at.continent)},
			"location":  mmdbtype.Map{"latitude": mmdbtype.Float64(at.lat), "longitude": mmdbtype.Float64(at.lon)},
		}))
	}
	path := filepath.Join(t.TempDir(), "city.mmdb")
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = w.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	table, err := OpenMMDB(path)
	require.NoError(t, err)
	for addr, want := range map[string]string{"10.1.2.3": "US", "10.2.2.3": "DE", "2001:db8:2::9": "DE",
		"10.3.0.1": ""} {
		at, scope := table.Locate(ip(addr))
		require.Equal(t, want, at.Country, addr)
		require.True(t, scope.Contains(ip(addr)))
	}
	at, _ := table.Locate(ip("10.1.0.1"))
	require.Equal(t, Location{Country: "US", Continent: "NA", Lat: 38, Lon: -98, HasCoords: true}, at)
	r := router(t, RouterOptions{Locator: table})
	require.Equal(t, "eu", r.Route(ip("10.2.0.1")).DC)
	require.NoError(t, os.WriteFile(path, []byte("not a database"), 0o600))
	_, err = OpenMMDB(path)
	require.Error(t, err)
}

func TestReloadKeepsTheOldOnError(t *testing.T) {
	r := NewReloading(table(t))
	before, _ := r.Locate(ip("10.2.0.1"))
	require.Equal(t, "DE", before.Country)
	require.Error(t, r.Load(func() (Locator, error) { return OpenMMDB(t.TempDir() + "/none.mmdb") }))
	require.ErrorContains(t, r.Load(func() (Locator, error) { return nil, nil }), "no locator")
	now, _ := r.Locate(ip("10.2.0.1"))
	require.Equal(t, before, now)
	require.NoError(t, r.Load(func() (Locator, error) {
		return ReadCSV(strings.NewReader("10.2.0.0/16,NA,US,38,-90\n"))
	}))
	now, _ = r.Locate(ip("10.2.0.1"))
	require.Equal(t, "US", now.Country)
}
