package geodns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

// Location is where an address is thought to be. The zero value is unknown.
type Location struct {
	Country   string // ISO 3166-1 alpha-2, upper case; "" unknown
	Continent string // AF, AN, AS, EU, NA, OC, SA; "" unknown
	ASN       uint32 // 0 unknown
	Net       string // a name of your own for a network, for GeoMap; "" none
	Lat, Lon  float64
	HasCoords bool
}

// Known is whether anything is known.
func (l Location) Known() bool { return l != Location{} }

// Locator finds where addresses are. It is safe for concurrent use.
type Locator interface {
	// Locate returns a location and the largest prefix around addr for which the locator would say the same.
	Locate(addr netip.Addr) (Location, netip.Prefix)
}

// ReadCSV reads a table from lines of "cidr,continent,country,lat,lon" or "first,last,country"; further columns are
// ignored, coordinates may be empty. Empty lines and those that begin with # are skipped, and a header line is. On a
// malformed line it returns an error with the line's number.
func ReadCSV(r io.Reader) (*Table, error) {
	var b Builder
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := addLine(&b, line); err != nil {
			if c := line[0]; n == 1 && (c|0x20 >= 'a' && c|0x20 <= 'z') &&
				!strings.Contains(strings.SplitN(line, ",", 2)[0], ":") {
				continue
			}
			return nil, fmt.Errorf("geodns: CSV line %d: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("geodns: CSV: %w", err)
	}
	return b.Build()
}

func addLine(b *Builder, line string) error {
	f := strings.Split(line, ",")
	for i := range f {
		f[i] = strings.Trim(strings.TrimSpace(f[i]), `"`)
	}
	if len(f) < 3 {
		return fmt.Errorf("%d columns, want at least 3", len(f))
	}
	if !strings.Contains(f[0], "/") {
		first, err := netip.ParseAddr(f[0])
		if err != nil {
			return err
		}
		last, err := netip.ParseAddr(f[1])
		if err != nil {
			return err
		}
		return b.Add(first, last, Location{Country: strings.ToUpper(f[2])})
	}
	p, err := netip.ParsePrefix(f[0])
	if err != nil {
		return err
	}
	at := Location{Continent: strings.ToUpper(f[1]), Country: strings.ToUpper(f[2])}
	if len(f) >= 5 && f[3] != "" && f[4] != "" {
		if at.Lat, err = strconv.ParseFloat(f[3], 64); err != nil {
			return err
		}
		if at.Lon, err = strconv.ParseFloat(f[4], 64); err != nil {
			return err
		}
		at.HasCoords = true
	}
	return b.AddPrefix(p, at)
}

// Reloading is a Locator that can be replaced while it serves. A [Router] compiles locators that are Tables; behind a
// Reloading it looks up per request, so prefer [Router.Update] with a new table.
type Reloading struct{ now atomic.Pointer[Locator] }

// NewReloading serves l until Set.
func NewReloading(l Locator) *Reloading {
	r := &Reloading{}
	r.Set(l)
	return r
}

// Set replaces the locator at once.
func (r *Reloading) Set(l Locator) { r.now.Store(&l) }

// Load replaces the locator with what open returns, such as a database file that was written anew. On an error the old
// one goes on serving.
func (r *Reloading) Load(open func() (Locator, error)) error {
	l, err := open()
	if err == nil && l == nil {
		err = errors.New("geodns: Reloading.Load: no locator")
	}
	if err != nil {
		return err
	}
	r.Set(l)
	return nil
}

// Locate implements [Locator].
func (r *Reloading) Locate(addr netip.Addr) (Location, netip.Prefix) {
	return (*r.now.Load()).Locate(addr)
}
