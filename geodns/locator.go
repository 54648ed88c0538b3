package geodns

import (
	"io"
	"net/netip"
)

// Location is where an address is thought to be. The zero value is unknown.
type Location struct {
	Country   string // ISO 3166-1 alpha-2, upper case; "" unknown
	Continent string // AF, AN, AS, EU, NA, OC, SA; "" unknown
	ASN       uint32 // 0 unknown
	Lat, Lon  float64
	HasCoords bool
}

// Known is whether anything is known.
func (l Location) Known() bool { return l != Location{} }

// Locator finds where addresses are.
type Locator interface {
	// Locate returns a location and the largest prefix around addr for which the locator would say the same.
	Locate(addr netip.Addr) (Location, netip.Prefix)
}

// Table is an immutable Locator over sorted ranges. Locate takes no lock and does not allocate.
type Table struct{ _ struct{} }

// Locate implements [Locator].
func (t *Table) Locate(addr netip.Addr) (Location, netip.Prefix) { return Location{}, netip.Prefix{} }

// Len is the number of IPv4 and IPv6 ranges.
func (t *Table) Len() (v4, v6 int) { return 0, 0 }

// Builder collects ranges for a [Table].
type Builder struct{ _ struct{} }

// Add sets the location of all addresses from first to last (both included, same family). Of overlapping ranges the smaller wins.
func (b *Builder) Add(first, last netip.Addr, at Location) error { return nil }

// AddPrefix sets the location of a prefix.
func (b *Builder) AddPrefix(p netip.Prefix, at Location) error { return nil }

// Build returns the table; the builder may be used on.
func (b *Builder) Build() (*Table, error) { return nil, nil }

// ReadCSV reads a table from lines of "cidr,continent,country,lat,lon" or "first,last,country" (a header line is skipped, coordinates may be
// empty). On a malformed line it returns an error with the line's number.
func ReadCSV(r io.Reader) (*Table, error) { return nil, nil }

// Reloading is a Locator whose table can be replaced while it serves.
type Reloading struct{ _ struct{} }
