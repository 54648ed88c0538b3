// Package shard compares the key-to-shard lookup with consistent-hash libraries and with the bare hash (the limit).
package shard

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
	jump "github.com/dgryski/go-jump"
	rendezvous "github.com/dgryski/go-rendezvous"
	"github.com/golang/groupcache/consistenthash"
	"github.com/serialx/hashring"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/shard"
)

const mask = 1<<16 - 1

var (
	texts [mask + 1]string
	nums  [mask + 1]uint64
	sink  uint64
)

func init() {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range texts {
		nums[i] = r.Uint64()
		texts[i] = fmt.Sprintf("user:%d", nums[i]%1_000_000_000)
	}
}

func mix(x uint64) uint64 { // the finaliser of MurmurHash3, as fixed mixers go
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// anchor is AnchorHash (Mendelson et al., IEEE/ACM ToN 2021), minimal: capacity a, all of the first n working.
type anchor struct {
	a, k, w, l []uint32
	r          []uint32
	n          uint32
}

func newAnchor(capacity, working int) *anchor {
	h := &anchor{a: make([]uint32, capacity), k: make([]uint32, capacity), w: make([]uint32, capacity),
		l: make([]uint32, capacity), n: uint32(working)}
	for i := range capacity {
		h.k[i], h.w[i], h.l[i] = uint32(i), uint32(i), uint32(i)
	}
	for i := capacity - 1; i >= working; i-- {
		h.a[i] = uint32(i)
		h.r = append(h.r, uint32(i))
	}
	return h
}

func (h *anchor) get(key uint64) uint32 {
	b := uint32((key >> 32) * uint64(len(h.a)) >> 32)
	for h.a[b] > 0 {
		key = mix(key + uint64(b))
		g := uint32((key >> 32) * uint64(h.a[b]) >> 32)
		for h.a[g] >= h.a[b] {
			g = h.k[g]
		}
		b = g
	}
	return b
}

func tierkitMap(b *testing.B, n int) *shard.Map {
	var shards []shard.Shard
	for i := range n {
		db, err := sql.Open("sqlite", "file:unused")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		shards = append(shards, shard.Shard{ID: shard.ID(fmt.Sprint("node", i)), DB: db})
	}
	c, err := shard.New(context.Background(), shard.MemoryStore(), shards, shard.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c.Map()
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("node", i))
		}
		m := tierkitMap(b, n)
		run := func(name string, f func(i int) uint64) {
			b.Run(fmt.Sprintf("%s/n=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				var s uint64
				for b.Loop() {
					s += f(i & mask)
					i++
				}
				sink += s
			})
		}
		run("string/limit", func(i int) uint64 { return xxhash.Sum64String(texts[i]) })
		run("string/tierkit", func(i int) uint64 { return uint64(len(m.Owner(m.Slot(texts[i])))) })
		ring := consistenthash.New(160, nil)
		ring.Add(names...)
		run("string/groupcache", func(i int) uint64 { return uint64(len(ring.Get(texts[i]))) })
		if n <= 100 {
			hr := hashring.New(names)
			run("string/serialx", func(i int) uint64 { s, _ := hr.GetNode(texts[i]); return uint64(len(s)) })
		}
		rv := rendezvous.New(names, xxhash.Sum64String)
		run("string/rendezvous", func(i int) uint64 { return uint64(len(rv.Lookup(texts[i]))) })
		run("string/jump", func(i int) uint64 { return uint64(jump.Hash(xxhash.Sum64String(texts[i]), n)) })
		an := newAnchor(n*2, n)
		run("string/anchor", func(i int) uint64 { return uint64(an.get(xxhash.Sum64String(texts[i]))) })
		run("uint64/limit", func(i int) uint64 { return mix(nums[i]) })
		run("uint64/tierkit", func(i int) uint64 { return uint64(len(m.Owner(m.SlotUint64(nums[i])))) })
		run("uint64/jump", func(i int) uint64 { return uint64(jump.Hash(nums[i], n)) })
		run("uint64/anchor", func(i int) uint64 { return uint64(an.get(mix(nums[i]))) })
	}
}
