package geodns

import (
	"fmt"
	"math"

	"github.com/oschwald/maxminddb-golang/v2"
)

// OpenMMDB reads a MaxMind-format database (GeoLite2 or GeoIP2 City, Country or ASN, DB-IP Lite) into a table; the file
// is not needed afterwards. Coordinates are rounded to whole degrees, about 100 km, so that ranges merge: data centers
// are farther apart. GeoLite2 needs a free account and key, and old copies must be deleted within 30 days; DB-IP Lite
// is CC BY 4.0 and wants an attribution.
func OpenMMDB(path string) (*Table, error) {
	db, err := maxminddb.Open(path)
	if err != nil {
		return nil, fmt.Errorf("geodns: %w", err)
	}
	defer db.Close()
	var b Builder
	decoded := map[uintptr]Location{} // many networks share a record
	for network := range db.Networks() {
		at, ok := decoded[network.Offset()]
		if !ok {
			var rec struct {
				Country struct {
					ISO string `maxminddb:"iso_code"`
				} `maxminddb:"country"`
				Registered struct {
					ISO string `maxminddb:"iso_code"`
				} `maxminddb:"registered_country"`
				Continent struct {
					Code string `maxminddb:"code"`
				} `maxminddb:"continent"`
				Location struct {
					Lat *float64 `maxminddb:"latitude"`
					Lon *float64 `maxminddb:"longitude"`
				} `maxminddb:"location"`
				ASN uint32 `maxminddb:"autonomous_system_number"`
			}
			if err := network.Decode(&rec); err != nil {
				return nil, fmt.Errorf("geodns: %s: %w", path, err)
			}
			at = Location{Country: rec.Country.ISO, Continent: rec.Continent.Code, ASN: rec.ASN}
			if at.Country == "" {
				at.Country = rec.Registered.ISO
			}
			if rec.Location.Lat != nil && rec.Location.Lon != nil {
				at.Lat, at.Lon, at.HasCoords = math.Round(*rec.Location.Lat), math.Round(*rec.Location.Lon), true
			}
			decoded[network.Offset()] = at
		}
		if err := b.AddPrefix(network.Prefix(), at); err != nil {
			return nil, err
		}
	}
	return b.Build()
}
