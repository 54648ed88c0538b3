package cache

import (
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tierkit/tierkit/internal/evict"
)

// shard is a part of the cache with its own lock, table and policy. Reads take the lock only for policies that must
// know of each (LRU, LFU).
type shard[K comparable, V any] struct {
	table   atomic.Pointer[table[K, V]]
	loading atomic.Int32 // len(flights), for writers without the lock

	mu      sync.Mutex // guards writing to the table, and what follows
	policy  evict.Policy[*node[K, V]]
	max     int64
	low     int64 // down to which it is emptied once it was full
	over    bool  // on the way there
	flights map[K]*flight[V]
	swept   int // next bucket for the janitor
	evicted int64
	expired int64
	deleted int64
	_       [64]byte
}

// removal is an entry that has left, for OnRemove.
type removal[K comparable, V any] struct {
	n     *node[K, V]
	value V
	cause Cause
}

// removed are the removals of one operation, reported after the lock is given back; nobody listens: nothing is kept.
type removed[K comparable, V any] struct{ list []removal[K, V] }

func (c *Cache[K, V]) note(r *removed[K, V], n *node[K, V], cause Cause) {
	if c.o.OnRemove != nil && !n.negative() {
		r.list = append(r.list, removal[K, V]{n, c.value(n), cause})
	}
}

func (c *Cache[K, V]) report(r *removed[K, V]) {
	for _, x := range r.list {
		c.o.OnRemove(x.n.key, x.value, x.cause)
	}
}

// entry is what a write wants to store.
type entry[V any] struct {
	value    V
	expires  int64
	weight   int64
	took     int64
	negative bool
}

// weigh asks Options.Weigh; no lock is held.
func (c *Cache[K, V]) weigh(k K, v V) int64 {
	if c.o.Weigh == nil {
		return 1
	}
	return max(1, c.o.Weigh(k, v))
}

// make returns a node of the smallest class that holds e.
func (c *Cache[K, V]) make(k K, hash uint32, e *entry[V]) *node[K, V] {
	switch {
	case c.allRich || e.negative:
		n := &rich[K, V]{weight: e.weight, took: e.took, negative: e.negative}
		n.key, n.value, n.meta = k, e.value, hash<<2|richClass
		n.expires.Store(e.expires)
		n.read.Store(c.now())
		return &n.node
	case e.expires != never:
		n := &timed[K, V]{}
		n.key, n.value, n.meta = k, e.value, hash<<2|timedClass
		n.expires.Store(e.expires)
		return &n.node
	default:
		return &node[K, V]{key: k, value: e.value, meta: hash<<2 | plainClass}
	}
}

// inPlaceMargin keeps writers without the lock away from entries that the janitor may be about to remove.
const inPlaceMargin = int64(time.Second)

// inPlace overwrites the value of an existing entry without the lock, when the machine can do that in one step and
// nobody has to be told. The value is written before its deadline, and read after it (see peek).
func (c *Cache[K, V]) inPlace(s *shard[K, V], k K, hash uint32, e *entry[V]) bool {
	if c.word == noWord || c.allRich || c.o.OnRemove != nil || c.locking || s.loading.Load() != 0 {
		return false
	}
	n := s.table.Load().find(k, hash)
	if n == nil || n.class() == richClass || n.class() == plainClass && e.expires != never {
		return false
	}
	if n.class() == timedClass {
		if last := n.fresh() - inPlaceMargin; !c.clock.Before(last) && c.clock.Renew() > last {
			return false
		}
	}
	c.word.store(unsafe.Pointer(&n.value), unsafe.Pointer(&e.value))
	if n.class() == timedClass {
		n.timed().expires.Store(e.expires)
	}
	if s.loading.Load() != 0 { // began meanwhile: it must not overwrite the value
		s.mu.Lock()
		s.fence(k)
		s.mu.Unlock()
	}
	n.state.Visit()
	// A removal that went on meanwhile may have taken the node away: then this write comes before it.
	return true
}

// put stores e under the shard's lock.
func (c *Cache[K, V]) put(s *shard[K, V], k K, hash uint32, e *entry[V], out *removed[K, V]) {
	n := c.make(k, hash, e)
	t := s.table.Load()
	old := t.find(k, hash)
	if n.Weight() > s.max {
		if old != nil {
			c.drop(s, old, Replaced, out)
		}
		return
	}
	if old != nil {
		s.policy.Replace(old, n)
		if !c.locking {
			n.state.Visit()
		}
		t.replace(old, n)
		c.note(out, old, Replaced)
	} else {
		if t.full(s.policy.Len() + 1) {
			t = c.grow(s, t)
		}
		s.policy.Add(n)
		t.insert(n)
	}
	for n := 0; ; n++ {
		w := s.policy.Weight()
		if w > s.max {
			s.over = s.low < s.max
		} else if s.over = s.over && w > s.low; !s.over || n >= evictAhead {
			break
		}
		v, ok := s.policy.Evict()
		if !ok {
			break
		}
		s.table.Load().replace(v, nil)
		s.evicted++
		c.note(out, v, Evicted)
	}
}

// evictAhead is how many entries one write removes to make the headroom, beside those that it must.
const evictAhead = 4

func (c *Cache[K, V]) grow(s *shard[K, V], t *table[K, V]) *table[K, V] {
	next := newTable[K, V](len(t.buckets) * bucketSlots)
	t.each(0, len(t.buckets), next.insert)
	s.table.Store(next)
	return next
}

// drop removes an entry; the lock is held.
func (c *Cache[K, V]) drop(s *shard[K, V], n *node[K, V], cause Cause, out *removed[K, V]) {
	s.policy.Remove(n)
	s.table.Load().replace(n, nil)
	switch cause {
	case Expired:
		s.expired++
	case Deleted:
		s.deleted++
	}
	c.note(out, n, cause)
}

// fence makes a load of the key that is under way not store its result; the lock is held.
func (s *shard[K, V]) fence(k K) {
	if f := s.flights[k]; f != nil {
		f.fenced = true
		delete(s.flights, k)
		s.loading.Store(int32(len(s.flights)))
	}
}
