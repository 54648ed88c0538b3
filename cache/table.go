package cache

import (
	"hash/maphash"
	"math/bits"
	"reflect"
	"sync/atomic"
	"unsafe"

	"github.com/tierkit/tierkit/internal/tick"
)

// table is a hash table that is read without a lock and written under the shard's. A bucket is one cache line: seven
// bits of hash for each of six nodes in one word, so that a look-up compares all of them at once. Nodes never move
// within a table; when the table is too small a larger one takes its place, and readers of the old one see it as it was
// when they began.
type table[K comparable, V any] struct {
	buckets []bucket[K, V]
	mask    uint32
}

const (
	bucketSlots = 6
	lowBits     = 0x0000_0101_0101_0101
	highBits    = 0x0000_8080_8080_8080
	maxBuckets  = 1 << 23 // of a shard: the bits of a node's hash that choose the bucket
)

type bucket[K comparable, V any] struct {
	tags  atomic.Uint64
	slots [bucketSlots]atomic.Pointer[node[K, V]]
	next  atomic.Pointer[bucket[K, V]]
}

func newTable[K comparable, V any](entries int) *table[K, V] {
	n := 1
	for n*bucketSlots*4/5 < entries && n < maxBuckets {
		n <<= 1
	}
	return &table[K, V]{buckets: make([]bucket[K, V], n), mask: uint32(n - 1)}
}

// full reports whether a table for so many entries should be larger.
func (t *table[K, V]) full(entries int) bool {
	return entries > len(t.buckets)*bucketSlots*4/5 && len(t.buckets) < maxBuckets
}

// The upper seven of a node's 30 bits are its tag, the others choose the bucket. A tag has its high bit set, so that 0
// is an empty slot.
func tag(hash uint32) uint64 { return uint64(hash>>23)&0x7f | 0x80 }

func (t *table[K, V]) find(k K, hash uint32) *node[K, V] {
	want := tag(hash) * lowBits
	for b := &t.buckets[hash&t.mask]; b != nil; b = b.next.Load() {
		x := b.tags.Load() ^ want
		for m := (x - lowBits) &^ x & highBits; m != 0; m &= m - 1 {
			if n := b.slots[bits.TrailingZeros64(m)>>3].Load(); n != nil && n.key == k {
				return n
			}
		}
	}
	return nil
}

// findTimed is find, and reads the counter of the clock before it looks at what it finds.
func (t *table[K, V]) findTimed(k K, hash uint32) (n *node[K, V], at tick.Count) {
	want := tag(hash) * lowBits
	for b := &t.buckets[hash&t.mask]; b != nil; b = b.next.Load() {
		x := b.tags.Load() ^ want
		for m := (x - lowBits) &^ x & highBits; m != 0; m &= m - 1 {
			if n = b.slots[bits.TrailingZeros64(m)>>3].Load(); n != nil {
				first := uintptr(unsafe.Pointer(n))
				at = tick.Read(first, first+unsafe.Offsetof(timed[K, V]{}.expires))
				if n.key == k {
					return n, at
				}
			}
		}
	}
	return nil, 0
}

func (t *table[K, V]) insert(n *node[K, V]) {
	hash := n.hash()
	b := &t.buckets[hash&t.mask]
	for {
		tags := b.tags.Load()
		for i := range bucketSlots {
			if tags>>(8*i)&0xff == 0 {
				b.slots[i].Store(n) // before the tag: a reader that sees the tag finds the node
				b.tags.Store(tags | tag(hash)<<(8*i))
				return
			}
		}
		next := b.next.Load()
		if next == nil {
			next = &bucket[K, V]{}
			b.next.Store(next)
		}
		b = next
	}
}

// replace puts a node in the place of another of the same key; with nil it removes it.
func (t *table[K, V]) replace(old, n *node[K, V]) {
	for b := &t.buckets[old.hash()&t.mask]; b != nil; b = b.next.Load() {
		for i := range bucketSlots {
			if b.slots[i].Load() == old {
				if n == nil {
					b.tags.Store(b.tags.Load() &^ (0xff << (8 * i)))
				}
				b.slots[i].Store(n)
				return
			}
		}
	}
}

// each calls f for the nodes of buckets [from, to).
func (t *table[K, V]) each(from, to int, f func(*node[K, V])) {
	for i := from; i < min(to, len(t.buckets)); i++ {
		for b := &t.buckets[i]; b != nil; b = b.next.Load() {
			for j := range bucketSlots {
				if n := b.slots[j].Load(); n != nil {
					f(n)
				}
			}
		}
	}
}

// hasher hashes keys of one type with a seed of the cache's own, so that nobody can choose keys that collide.
type hasher[K comparable] struct {
	seed maphash.Seed
	salt uint64
	kind uint8
}

const (
	anyKey = iota
	intKey
	stringKey
)

func newHasher[K comparable]() hasher[K] {
	h := hasher[K]{seed: maphash.MakeSeed()}
	h.salt = maphash.Comparable(h.seed, 1)
	switch t := reflect.TypeFor[K](); t.Kind() {
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64, reflect.Uintptr:
		if t.Size() == 8 {
			h.kind = intKey
		}
	case reflect.String:
		h.kind = stringKey
	}
	return h
}

// hash mixes integers with two wide multiplications (wyhash's finalizer), which is faster than maphash and as good
// here.
func (h *hasher[K]) hash(k K) uint64 {
	switch h.kind {
	case intKey:
		hi, lo := bits.Mul64(*(*uint64)(unsafe.Pointer(&k))^h.salt, 0x2d35_8dcc_aa6c_78a5)
		hi, lo = bits.Mul64(hi^lo, 0x8bb8_4b93_962e_acc9)
		return hi ^ lo
	case stringKey:
		return maphash.String(h.seed, *(*string)(unsafe.Pointer(&k)))
	}
	return maphash.Comparable(h.seed, k)
}
