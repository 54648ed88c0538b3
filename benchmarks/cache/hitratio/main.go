// Command hitratio plays traces through tierkit's cache, otter, LRU, FIFO, S3-FIFO and the clairvoyant optimum, and
// prints the table of hit ratios, and how much of the gap from FIFO to the optimum each of them closes:
//
//	go run ./cache/hitratio -traces DIR
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/maypok86/otter/v2"

	"github.com/tierkit/tierkit/cache"
)

func main() {
	dir := flag.String("traces", "../../shared/data/traces", "directory of traces")
	limit := flag.Int("requests", 1_000_000, "requests of each trace to play")
	flag.Parse()
	if err := run(*dir, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "hitratio:", err)
		os.Exit(1)
	}
}

// access plays one request and reports a hit.
type access func(id uint32) bool

var names = []string{"fifo", "lru", "s3fifo", "otter", "tierkit", "optimum"}

func run(dir string, limit int) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var all, large tally
	fmt.Printf("%-16s %9s", "trace", "entries")
	for _, n := range names {
		fmt.Printf(" %8s", n)
	}
	fmt.Println()
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "README") {
			continue
		}
		ids, unique, err := load(filepath.Join(dir, f.Name()), limit)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		name, _, _ := strings.Cut(f.Name(), ".")
		for _, share := range []float64{0.005, 0.02, 0.1, 0.3} {
			size := max(2, int(share*float64(unique)))
			r := make([]float64, len(names))
			for i, n := range names {
				if n == "optimum" {
					r[i] = optimum(ids, unique, size)
					continue
				}
				play, end, err := contender(n, unique, size)
				if err != nil {
					return err
				}
				hits := 0
				for _, id := range ids {
					if play(id) {
						hits++
					}
				}
				end()
				r[i] = float64(hits) / float64(len(ids))
			}
			fmt.Printf("%-16s %9d", name, size)
			for _, v := range r {
				fmt.Printf(" %8.2f", 100*v)
			}
			fmt.Println()
			all.add(r)
			if size >= 50 {
				large.add(r)
			}
		}
	}
	all.print("all")
	large.print("50 entries and more")
	return nil
}

// tally sums up cells: a trace with a size of the cache.
type tally struct {
	cells, gaps, beats, loses, worse int
	sum, closed                      [6]float64
}

// add counts differences of a tenth of a percent and more.
func (t *tally) add(r []float64) {
	t.cells++
	gap := r[5] - r[0]
	if gap > 0.001 {
		t.gaps++
	}
	for i, v := range r {
		t.sum[i] += v
		if gap > 0.001 {
			t.closed[i] += (v - r[0]) / gap
		}
	}
	switch {
	case r[4] > r[3]+0.001:
		t.beats++
	case r[4] < r[3]-0.001:
		t.loses++
	}
	if r[4] < r[1]-0.001 {
		t.worse++
	}
}

func (t *tally) print(which string) {
	fmt.Printf("\n%d cells: %s\n%-26s", t.cells, which, "mean")
	for _, v := range t.sum {
		fmt.Printf(" %8.2f", 100*v/float64(t.cells))
	}
	fmt.Printf("\n%-26s", "gap fifo-optimum closed")
	for _, v := range t.closed {
		fmt.Printf(" %8.1f", 100*v/float64(max(1, t.gaps)))
	}
	fmt.Printf("\ntierkit beats otter in %d cells, loses %d, and is worse than LRU in %d\n", t.beats, t.loses, t.worse)
}

func contender(name string, unique, size int) (access, func(), error) {
	none := func() {}
	switch name {
	case "fifo":
		in, ring, at := make([]bool, unique), make([]uint32, 0, size), 0
		return func(id uint32) bool {
			if in[id] {
				return true
			}
			in[id] = true
			if len(ring) < size {
				ring = append(ring, id)
				return false
			}
			in[ring[at]] = false
			ring[at] = id
			at = (at + 1) % size
			return false
		}, none, nil
	case "lru":
		c, err := lru.New[uint32, struct{}](size)
		return func(id uint32) bool {
			if _, ok := c.Get(id); ok {
				return true
			}
			c.Add(id, struct{}{})
			return false
		}, none, err
	case "s3fifo":
		return newS3(unique, size).access, none, nil
	case "otter":
		c, err := otter.New(&otter.Options[uint32, uint32]{MaximumSize: size, InitialCapacity: size,
			Executor: func(f func()) {
				f()
			}})
		return func(id uint32) bool {
			if _, ok := c.GetIfPresent(id); ok {
				return true
			}
			c.Set(id, id)
			return false
		}, func() { c.StopAllGoroutines() }, err
	default:
		c, err := cache.New(cache.Options[uint32, uint32]{MaxEntries: size})
		return func(id uint32) bool {
			if _, ok := c.Get(id); ok {
				return true
			}
			c.Set(id, id)
			return false
		}, func() { c.Close() }, err
	}
}

// s3 is S3-FIFO as published (Yang et al., SOSP 2023).
type s3 struct {
	small, main, ghost []uint32
	size, cap          int
	where              []uint8 // 1 small, 2 main, 3 ghost
	freq               []uint8
}

func newS3(unique, size int) *s3 {
	return &s3{cap: size, size: max(1, size/10), where: make([]uint8, unique), freq: make([]uint8, unique)}
}

func (p *s3) access(id uint32) bool {
	if w := p.where[id]; w == 1 || w == 2 {
		p.freq[id] = min(3, p.freq[id]+1)
		return true
	}
	for len(p.small)+len(p.main) >= p.cap {
		if len(p.small) >= p.size || len(p.main) == 0 {
			p.evictSmall()
		} else {
			p.evictMain()
		}
	}
	p.freq[id] = 0
	if p.where[id] == 3 {
		p.where[id] = 2
		p.main = append(p.main, id)
	} else {
		p.where[id] = 1
		p.small = append(p.small, id)
	}
	return false
}

func (p *s3) evictSmall() {
	for len(p.small) > 0 {
		t := p.small[0]
		p.small = p.small[1:]
		if p.freq[t] > 1 {
			p.freq[t], p.where[t] = 0, 2
			p.main = append(p.main, t)
			if len(p.main) > p.cap-p.size {
				p.evictMain()
				return
			}
			continue
		}
		p.where[t] = 3
		p.ghost = append(p.ghost, t)
		if len(p.ghost) > p.cap-p.size {
			if g := p.ghost[0]; p.where[g] == 3 {
				p.where[g] = 0
			}
			p.ghost = p.ghost[1:]
		}
		return
	}
}

func (p *s3) evictMain() {
	for len(p.main) > 0 {
		t := p.main[0]
		p.main = p.main[1:]
		if p.freq[t] > 0 {
			p.freq[t]--
			p.main = append(p.main, t)
			continue
		}
		p.where[t] = 0
		return
	}
}

// optimum is Belady's algorithm, which may also decline to store.
func optimum(ids []uint32, unique, size int) float64 {
	const never = ^uint32(0)
	next, last := make([]uint32, len(ids)), make([]uint32, unique)
	for i := range last {
		last[i] = never
	}
	for i := len(ids) - 1; i >= 0; i-- {
		next[i], last[ids[i]] = last[ids[i]], uint32(i)
	}
	type use struct{ next, id uint32 }
	resident := make([]uint32, unique) // next use + 1
	var h []use
	push := func(x use) {
		h = append(h, x)
		for i := len(h) - 1; i > 0; {
			p := (i - 1) / 2
			if h[p].next >= h[i].next {
				break
			}
			h[p], h[i] = h[i], h[p]
			i = p
		}
	}
	pop := func() use {
		x, l := h[0], len(h)-1
		h[0] = h[l]
		h = h[:l]
		for i := 0; ; {
			k := 2*i + 1
			if k >= l {
				return x
			}
			if k+1 < l && h[k+1].next > h[k].next {
				k++
			}
			if h[i].next >= h[k].next {
				return x
			}
			h[i], h[k] = h[k], h[i]
			i = k
		}
	}
	n, hits := 0, 0
	for i, id := range ids {
		switch {
		case resident[id] != 0:
			hits++
			if next[i] == never {
				resident[id] = 0
				n--
				continue
			}
		case next[i] == never:
			continue
		default:
			n++
		}
		resident[id] = next[i] + 1
		push(use{next[i], id})
		for n > size {
			if x := pop(); resident[x.id] == x.next+1 {
				resident[x.id] = 0
				n--
			}
		}
	}
	return float64(hits) / float64(len(ids))
}

// load reads a trace as ids from 0 in the order of first use.
func load(path string, limit int) (ids []uint32, unique int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return nil, 0, err
		}
	case ".zst":
		d, err := zstd.NewReader(f)
		if err != nil {
			return nil, 0, err
		}
		defer d.Close()
		r = d
	case ".xz":
		out, err := exec.Command("xz", "-dc", path).Output()
		if err != nil {
			return nil, 0, fmt.Errorf("xz: %w", err)
		}
		r = bytes.NewReader(out)
	}
	seen := map[uint64]uint32{}
	add := func(k uint64) bool {
		id, ok := seen[k]
		if !ok {
			id = uint32(len(seen))
			seen[k] = id
		}
		ids = append(ids, id)
		return len(ids) < limit
	}
	br := bufio.NewReaderSize(r, 1<<20)
	base := filepath.Base(path)
	records := func(size int, number func([]byte) uint64) {
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(br, buf); err != nil || !add(number(buf)) {
				return
			}
		}
	}
	be32 := func(b []byte) uint64 { return uint64(binary.BigEndian.Uint32(b)) }
	switch {
	case strings.HasPrefix(base, "arc_"):
		lines := bufio.NewScanner(br)
		for lines.Scan() {
			var from, n uint64
			if _, err := fmt.Sscan(lines.Text(), &from, &n); err != nil {
				continue
			}
			for i := range n {
				if !add(from + i) {
					return ids, len(seen), nil
				}
			}
		}
	case strings.HasPrefix(base, "lirs_"):
		lines := bufio.NewScanner(br)
		for lines.Scan() {
			var k uint64
			if _, err := fmt.Sscan(lines.Text(), &k); err == nil && !add(k) {
				break
			}
		}
	case strings.HasPrefix(base, "c2k_"), strings.HasPrefix(base, "w106"):
		records(4, be32)
	case strings.HasPrefix(base, "corda"):
		records(8, binary.BigEndian.Uint64)
	case strings.HasPrefix(base, "cpio"):
		records(24, func(b []byte) uint64 { return binary.LittleEndian.Uint64(b[4:]) })
	default:
		return nil, 0, fmt.Errorf("unknown format")
	}
	return ids, len(seen), nil
}
