// Command generate makes the table that package countries embeds, from the CSV files of the npm package
// @ip-location-db/geo-whois-asn-country:
//
//	npm pack @ip-location-db/geo-whois-asn-country && tar xzf ip-location-db-*.tgz
//	go run ./geodns/countries/generate -from package -to geodns/countries/countries.bin
//
// Ranges that are finer than a /24 (IPv4) or a /48 (IPv6) are given to the place before them: resolvers send no finer
// client subnets, and such ranges are more often mistakes than places.
package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

func main() {
	log.SetFlags(0)
	from := flag.String("from", "package", "folder of the unpacked npm package")
	to := flag.String("to", "countries.bin", "file to write")
	flag.Parse()
	v4, err := read(filepath.Join(*from, "geo-whois-asn-country-ipv4.csv"))
	if err != nil {
		log.Fatal(err)
	}
	v6, err := read(filepath.Join(*from, "geo-whois-asn-country-ipv6.csv"))
	if err != nil {
		log.Fatal(err)
	}
	codes := map[string]int{}
	var names []string
	for _, rs := range [][]rng{v4, v6} {
		for _, r := range rs {
			if _, ok := codes[r.country]; !ok {
				codes[r.country] = 0
				names = append(names, r.country)
			}
		}
	}
	sort.Strings(names)
	for i, n := range names {
		codes[n] = i + 1
	}
	var out bytes.Buffer
	out.WriteByte(byte(len(names)))
	out.WriteString(strings.Join(names, ""))
	for _, family := range []struct {
		rs    []rng
		grain int // low bits that are dropped
	}{{v4, 8}, {v6, 16}} {
		starts, of := merge(family.rs, family.grain, codes)
		var lens, places bytes.Buffer
		prev := uint64(0)
		for i, s := range starts {
			d := (s - prev) >> family.grain
			prev = s
			// most distances are round: the number of low zero bits and what is left are each small
			z := bits.TrailingZeros64(d)
			if d == 0 {
				z = 0
			}
			lens.WriteByte(byte(z))
			lens.Write(binary.AppendUvarint(nil, d>>z))
			places.WriteByte(byte(of[i]))
		}
		for _, b := range []*bytes.Buffer{&lens, &places} {
			var z bytes.Buffer
			w, _ := flate.NewWriter(&z, flate.BestCompression)
			w.Write(b.Bytes())
			w.Close()
			out.Write(binary.AppendUvarint(nil, uint64(len(starts))))
			out.Write(binary.AppendUvarint(nil, uint64(z.Len())))
			out.Write(z.Bytes())
		}
		fmt.Printf("%d ranges of the source, %d here\n", len(family.rs), len(starts))
	}
	if err := os.WriteFile(*to, out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d countries, %d bytes\n", len(names), out.Len())
}

type rng struct {
	first, last uint64 // of IPv6 the upper half
	country     string
}

func read(path string) (out []rng, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		p := strings.Split(sc.Text(), ",")
		if len(p) != 3 || len(p[2]) != 2 {
			return nil, fmt.Errorf("%s:%d: %q", path, n, sc.Text())
		}
		a, err1 := netip.ParseAddr(p[0])
		b, err2 := netip.ParseAddr(p[1])
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%s:%d: %q", path, n, sc.Text())
		}
		out = append(out, rng{upper(a), upper(b), p[2]})
	}
	return out, sc.Err()
}

func upper(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8])
}

// merge lays the ranges on the grain and joins neighbours of one country. Unknown is 0.
func merge(rs []rng, grain int, codes map[string]int) (starts []uint64, of []int) {
	put := func(at uint64, c int) {
		n := len(starts)
		if n > 0 && starts[n-1] == at {
			of[n-1] = c
			if n > 1 && of[n-2] == c {
				starts, of = starts[:n-1], of[:n-1]
			}
			return
		}
		if n == 0 || of[n-1] != c {
			starts, of = append(starts, at), append(of, c)
		}
	}
	put(0, 0)
	for _, r := range rs {
		// a cell belongs to the range that holds its first address, or to the first one known in it
		first := r.first >> grain << grain
		n := len(starts)
		if first != r.first && (of[n-1] != 0 || starts[n-1] > first) {
			first += 1 << grain
		}
		last := r.last>>grain + 1
		if first>>grain >= last {
			continue
		}
		put(first, codes[r.country])
		if last<<grain != 0 {
			put(last<<grain, 0)
		}
	}
	return starts, of
}
