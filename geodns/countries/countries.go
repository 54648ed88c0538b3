// Package countries is an address-to-country table that is built in, so that geodns works with nothing configured.
//
// The data is the npm package @ip-location-db/geo-whois-asn-country, release 2.3.2026061719, made from what the
// regional Internet registries, geofeeds and routing say about each network. Its package file says CC0; the registries'
// part carries the attribution in NOTICE. It names the country that a network is registered or announced for, which is
// not always where its users are: expect nine in ten addresses to be right, less for anycast, mobile roaming and large
// clouds. Its publisher says that later releases elsewhere mend mistakes of this one. IPv6 is kept
// to the /64. For city precision give geodns a MaxMind-format database instead.
//
// To make it anew see the command in the folder generate.
package countries

import (
	"bytes"
	"compress/flate"
	_ "embed"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"

	"github.com/tierkit/tierkit/geodns"
)

//go:embed countries.bin
var packed []byte

// Date of the data, as "2006-01-02".
const Date = "2026-06-17"

// Table returns the embedded table; it is decoded once, at the first call (some 30 ms, 6 MB). Its locations have
// country, continent and the country's coordinates.
func Table() *geodns.Table { return table() }

var table = sync.OnceValue(func() *geodns.Table {
	t, err := decode(packed)
	if err != nil {
		panic("countries: the embedded table is damaged: " + err.Error()) // not input: part of the program
	}
	return t
})

func decode(b []byte) (*geodns.Table, error) {
	if len(b) < 1 || len(b) < 1+2*int(b[0]) {
		return nil, io.ErrUnexpectedEOF
	}
	places := make([]geodns.Location, int(b[0])+1)
	for i := 1; i < len(places); i++ {
		places[i] = locationOf(string(b[2*i-1 : 2*i+1]))
	}
	b = b[2*len(places)-1:]
	var out geodns.Builder
	for _, width := range []int{32, 64} {
		lens, n, rest, err := stream(b)
		if err != nil {
			return nil, err
		}
		of, _, rest, err := stream(rest)
		if err != nil {
			return nil, err
		}
		b = rest
		if len(of) != n {
			return nil, errors.New("streams differ in length")
		}
		start, prev := uint64(0), uint64(0)
		addr := func(v uint64) netip.Addr {
			if width == 32 {
				return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(v))))
			}
			var a [16]byte
			binary.BigEndian.PutUint64(a[:], v)
			return netip.AddrFrom16(a)
		}
		add := func(last uint64, i int) error {
			if of[i] == 0 {
				return nil
			}
			return out.Add(addr(start), addr(last), places[of[i]])
		}
		for i := range n {
			if len(lens) < 2 {
				return nil, io.ErrUnexpectedEOF
			}
			z := lens[0]
			d, k := binary.Uvarint(lens[1:])
			if k <= 0 || int(of[i]) >= len(places) {
				return nil, errors.New("malformed stream")
			}
			lens = lens[1+k:]
			next := prev + d<<z
			if i > 0 {
				if err := add(next-1, i-1); err != nil {
					return nil, err
				}
			}
			start, prev = next, next
		}
		if err := add(1<<(width-1)<<1-1, n-1); err != nil {
			return nil, err
		}
	}
	return out.Build()
}

func stream(b []byte) (plain []byte, n int, rest []byte, err error) {
	count, k := binary.Uvarint(b)
	if k <= 0 {
		return nil, 0, nil, io.ErrUnexpectedEOF
	}
	b = b[k:]
	size, k := binary.Uvarint(b)
	if k <= 0 || uint64(len(b)-k) < size {
		return nil, 0, nil, io.ErrUnexpectedEOF
	}
	b = b[k:]
	plain, err = io.ReadAll(flate.NewReader(bytes.NewReader(b[:size])))
	return plain, int(count), b[size:], err
}

func locationOf(country string) geodns.Location {
	l := geodns.Location{Country: country}
	if c, ok := centers[country]; ok {
		l.Continent, l.Lat, l.Lon, l.HasCoords = c.continent, c.lat, c.lon, true
	}
	return l
}

// Center returns the coordinates of a country (ISO 3166-1 alpha-2): not its geometric middle but where most of its
// people are, to a degree or two, because that is where its requests come from.
func Center(country string) (lat, lon float64, ok bool) {
	c, ok := centers[country]
	return c.lat, c.lon, ok
}

// Continent returns the continent's code (AF, AN, AS, EU, NA, OC, SA) of a country, "" when it is unknown.
func Continent(country string) string { return centers[country].continent }
