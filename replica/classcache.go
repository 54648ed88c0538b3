package replica

import (
	"math/bits"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// classCache remembers the class of query texts. It is a two-way set-associative table of immutable entries: bounded by
// construction, lock-free, and a lookup is one hash and one comparison (of pointers, for the string constants that most queries are).
type classCache struct {
	sets []classSet
	mask uint64
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

func (c *classCache) get(query string, version uint64) *classEntry {
	s := &c.sets[xxhash.Sum64String(query)&c.mask]
	for i := range s.way {
		if e := s.way[i].Load(); e != nil && e.query == query && (e.version == version || e.learned) {
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
}
