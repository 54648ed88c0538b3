package replica

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// classCache remembers the class of query texts. It is a two-way set-associative table of immutable entries: bounded by
// construction, lock-free, and a lookup is one hash and one comparison (of pointers, for the string constants that most
// queries are).
//
// In front of it stands a table by the address of the text, for the constants: an entry keeps its text alive, so the
// same address and length are the same text.
type classCache struct {
	byAddress [1024]atomic.Pointer[classEntry]
	sets      []classSet
	mask      uint64
}

func (c *classCache) slot(query string) *atomic.Pointer[classEntry] {
	a := uint64(uintptr(unsafe.Pointer(unsafe.StringData(query))))
	return &c.byAddress[(a*0x9E3779B97F4A7C15)>>54]
}

type classSet struct{ way [2]atomic.Pointer[classEntry] }

type classEntry struct {
	query   string
	verdict Verdict
	version uint64 // of the dialect's function list
	learned bool   // refused by a replica once
}

func newClassCache(size int) *classCache {
	n := 1 << bits.Len(uint(max(size/2-1, 1)))
	return &classCache{sets: make([]classSet, n), mask: uint64(n - 1)}
}

func (e *classEntry) current(version uint64) bool { return e.version == version || e.learned }

func (c *classCache) get(query string, version uint64) *classEntry {
	near := c.slot(query)
	if e := near.Load(); e != nil && len(e.query) == len(query) &&
		unsafe.StringData(e.query) == unsafe.StringData(query) && e.current(version) {
		return e
	}
	s := &c.sets[xxhash.Sum64String(query)&c.mask]
	for i := range s.way {
		if e := s.way[i].Load(); e != nil && e.query == query && e.current(version) {
			if unsafe.StringData(e.query) == unsafe.StringData(query) {
				near.Store(e)
			}
			return e
		}
	}
	return nil
}

// put replaces the older way: the newer entry moves to the second place.
func (c *classCache) put(e *classEntry) {
	s := &c.sets[xxhash.Sum64String(e.query)&c.mask]
	if old := s.way[0].Load(); old != nil && old.query != e.query {
		s.way[1].Store(old)
	}
	s.way[0].Store(e)
	if e.learned { // at whatever address it was met before
		for i := range c.byAddress {
			if old := c.byAddress[i].Load(); old != nil && old.query == e.query {
				c.byAddress[i].CompareAndSwap(old, nil)
			}
		}
	}
	c.slot(e.query).Store(e)
}
