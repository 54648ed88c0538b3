// Command generate makes the table that package countries embeds, from the CSV files of the npm package
// @ip-location-db/geo-whois-asn-country:
//
//	npm pack @ip-location-db/geo-whois-asn-country && tar xzf ip-location-db-*.tgz
//	go run ./geodns/countries/generate -from package -to geodns/countries/countries.bin
//
// The ranges are kept as they are, IPv6 to the /64.
package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"maps"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tierkit/tierkit/geodns"
)

func main() {
	log.SetFlags(0)
	from := flag.String("from", "package", "folder of the unpacked npm package")
	to := flag.String("to", "countries.bin", "file to write")
	flag.Parse()
	var build geodns.Builder
	for _, f := range []string{"ipv4", "ipv6"} {
		if err := read(filepath.Join(*from, "geo-whois-asn-country-"+f+".csv"), &build); err != nil {
			log.Fatal(err)
		}
	}
	table, err := build.Build()
	if err != nil {
		log.Fatal(err)
	}
	families := make([][]place, 2)
	codes := map[string]int{"": 0}
	for first, at := range table.All() {
		i := 0
		if first.Is6() {
			i = 1
		}
		families[i] = append(families[i], place{upper(first), at.Country})
		codes[at.Country] = 0
	}
	names := slices.Sorted(maps.Keys(codes))[1:]
	for i, n := range names {
		codes[n] = i + 1
	}
	var out bytes.Buffer
	out.WriteByte(byte(len(names)))
	out.WriteString(strings.Join(names, ""))
	for _, places := range families {
		var lens, of bytes.Buffer
		prev := uint64(0)
		for _, p := range places {
			d := p.first - prev
			prev = p.first
			// most distances are round: the number of low zero bits and what is left are each small
			z := bits.TrailingZeros64(d)
			if d == 0 {
				z = 0
			}
			lens.WriteByte(byte(z))
			lens.Write(binary.AppendUvarint(nil, d>>z))
			of.WriteByte(byte(codes[p.country]))
		}
		for _, b := range []*bytes.Buffer{&lens, &of} {
			var z bytes.Buffer
			w, _ := flate.NewWriter(&z, flate.BestCompression)
			w.Write(b.Bytes())
			w.Close()
			out.Write(binary.AppendUvarint(nil, uint64(len(places))))
			out.Write(binary.AppendUvarint(nil, uint64(z.Len())))
			out.Write(z.Bytes())
		}
		fmt.Printf("%d ranges\n", len(places))
	}
	if err := os.WriteFile(*to, out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d countries, %d bytes\n", len(names), out.Len())
}

type place struct {
	first   uint64 // address; of IPv6 the upper half
	country string
}

// read adds the lines of a file. The source has ranges within ranges: the smaller one is the better known.
func read(path string, to *geodns.Builder) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		p := strings.Split(sc.Text(), ",")
		if len(p) != 3 || len(p[2]) != 2 {
			return fmt.Errorf("%s:%d: %q", path, n, sc.Text())
		}
		a, err1 := netip.ParseAddr(p[0])
		b, err2 := netip.ParseAddr(p[1])
		if err1 != nil || err2 != nil {
			return fmt.Errorf("%s:%d: %q", path, n, sc.Text())
		}
		if err := to.Add(a, b, geodns.Location{Country: p[2]}); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return sc.Err()
}

func upper(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8])
}
