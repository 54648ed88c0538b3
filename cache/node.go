package cache

import (
	"math"
	"reflect"
	"sync/atomic"
	"unsafe"

	"github.com/tierkit/tierkit/internal/evict"
)

// node is an entry. There are three classes, so that an entry pays only for what it uses: a plain one has no times, a
// timed one ends, a rich one has everything. A node's class stands in its meta word, and never changes; *timed and
// *rich begin with a node, and a *node of their class is converted to them.
//
// Readers hold no lock. All fields but value, expires, read and state are immutable once the node is in the table. The
// value changes in place only where the machine writes it in one step (a word); otherwise a new node takes the old
// one's place.
type node[K comparable, V any] struct {
	key   K
	value V
	meta  uint32 // hash, 30 bits, and class
	state evict.State
}

type timed[K comparable, V any] struct {
	node[K, V]
	expires atomic.Int64 // end of freshness, nanoseconds of the cache's clock
}

type rich[K comparable, V any] struct {
	timed[K, V]
	read     atomic.Int64 // last read, for idle expiry
	weight   int64
	took     int64 // how long its load took, for early refresh
	negative bool  // stands for "not found"
}

const (
	plainClass = 0
	timedClass = 1
	richClass  = 2
	classMask  = 3
	never      = math.MaxInt64
)

func (n *node[K, V]) class() uint32            { return n.meta & classMask }
func (n *node[K, V]) hash() uint32             { return n.meta >> 2 }
func (n *node[K, V]) timed() *timed[K, V]      { return (*timed[K, V])(unsafe.Pointer(n)) }
func (n *node[K, V]) rich() *rich[K, V]        { return (*rich[K, V])(unsafe.Pointer(n)) }
func (n *node[K, V]) EvictState() *evict.State { return &n.state }
func (n *node[K, V]) Fingerprint() uint32      { return n.meta }

func (n *node[K, V]) Weight() int64 {
	if n.class() == richClass {
		return n.rich().weight
	}
	return 1
}

// fresh is the end of freshness.
func (n *node[K, V]) fresh() int64 {
	if n.class() == plainClass {
		return never
	}
	return n.timed().expires.Load()
}

func (n *node[K, V]) negative() bool { return n.class() == richClass && n.rich().negative }

// word says how a V can be written in one step.
type word uint8

const (
	noWord word = iota
	number      // 8 bytes without pointers
	pointer
)

func wordOf[V any]() word {
	t := reflect.TypeFor[V]()
	switch t.Kind() {
	case reflect.Int64, reflect.Uint64, reflect.Float64, reflect.Int, reflect.Uint, reflect.Uintptr:
		// On 32-bit systems a field of 8 bytes may stand at an address at which atomic operations of 8 bytes panic.
		if t.Size() == 8 && unsafe.Alignof(uint64(0)) == 8 {
			return number
		}
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.UnsafePointer:
		return pointer
	}
	return noWord
}

// load reads the value of a node that may be written in place.
func (w word) load(p unsafe.Pointer, out unsafe.Pointer) {
	switch w {
	case number:
		*(*uint64)(out) = atomic.LoadUint64((*uint64)(p))
	case pointer:
		*(*unsafe.Pointer)(out) = atomic.LoadPointer((*unsafe.Pointer)(p))
	}
}

func (w word) store(p unsafe.Pointer, v unsafe.Pointer) {
	switch w {
	case number:
		atomic.StoreUint64((*uint64)(p), *(*uint64)(v))
	case pointer:
		atomic.StorePointer((*unsafe.Pointer)(p), *(*unsafe.Pointer)(v))
	}
}

func (c *Cache[K, V]) value(n *node[K, V]) (v V) {
	if c.word == noWord {
		return n.value
	}
	c.word.load(unsafe.Pointer(&n.value), unsafe.Pointer(&v))
	return v
}
