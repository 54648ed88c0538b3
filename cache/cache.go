package cache

import (
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tierkit/tierkit/internal/evict"
	"github.com/tierkit/tierkit/internal/tick"
)

// Cache holds entries in the process. It is safe for concurrent use; with the policies S3TK and FIFO a hit takes no
// lock and allocates nothing.
type Cache[K comparable, V any] struct {
	o       Options[K, V]
	hasher  hasher[K]
	shards  []shard[K, V]
	word    word
	locking bool         // hits take the lock (LRU, LFU)
	allRich bool         // entries need more than a deadline
	counted atomic.Bool  // reads ask the processor's counter before they ask for the time
	tiered  bool         // a Tiered loads into it
	dated   bool         // what is loaded with ErrNotFound says as of when, and is kept
	ticked  atomic.Int64 // the late clock of ClockError; 0: not running
	stale   int64        // how long after its freshness an entry may still be of use
	clock   tick.Clock
	_       [64]byte // what every read looks at, and what every read changes, are apart
	counts  [countStripes]counts
	loads   loadCounts

	life     sync.Mutex // guards what follows
	closed   bool
	janitor  bool
	stop     chan struct{}
	shortest atomic.Int64 // shortest TTL seen, which sets the janitor's pace
	tasks    sync.WaitGroup
	timedSet atomic.Bool // the janitor runs
}

const countStripes = 32

// stripe is a number of the calling goroutine, from the address of its stack: readers on different processors seldom
// meet on a counter, also when all of them ask for the same key.
func stripe() uint {
	var here byte
	p := uint(uintptr(unsafe.Pointer(&here)))
	return (p>>11 ^ p>>15) % countStripes
}

// counts are striped, see stripe.
type counts struct {
	hits, misses atomic.Int64
	_            [48]byte
}

type loadCounts struct{ calls, errors, nanos, joined, fenced, stale atomic.Int64 }

func (o Options[K, V]) withDefaults() (Options[K, V], error) {
	bad := func(field string, v any) (Options[K, V], error) {
		return o, fmt.Errorf("cache: Options.%s is %v", field, v)
	}
	switch {
	case o.MaxEntries < 0:
		return bad("MaxEntries", o.MaxEntries)
	case o.MaxWeight < 0:
		return bad("MaxWeight", o.MaxWeight)
	case o.MaxWeight > 0 && o.Weigh == nil:
		return o, fmt.Errorf("cache: Options.MaxWeight needs Options.Weigh")
	case o.MaxWeight == 0 && o.Weigh != nil:
		return o, fmt.Errorf("cache: Options.Weigh needs Options.MaxWeight")
	case o.MaxWeight > 0 && o.MaxEntries > 0:
		return o, fmt.Errorf("cache: Options.MaxEntries and MaxWeight exclude each other")
	case o.TTL < 0:
		return bad("TTL", o.TTL)
	case o.Jitter < 0 || o.Jitter > 1 || math.IsNaN(o.Jitter):
		return bad("Jitter", o.Jitter)
	case o.Idle < 0:
		return bad("Idle", o.Idle)
	case o.StaleFor < 0:
		return bad("StaleFor", o.StaleFor)
	case o.StaleIfError < 0:
		return bad("StaleIfError", o.StaleIfError)
	case o.NegativeTTL < 0:
		return bad("NegativeTTL", o.NegativeTTL)
	case o.EarlyRefresh < 0 || math.IsNaN(o.EarlyRefresh):
		return bad("EarlyRefresh", o.EarlyRefresh)
	case o.RefreshAhead < 0 || o.RefreshAhead > 0 && o.RefreshAhead >= o.TTL:
		return bad("RefreshAhead", o.RefreshAhead)
	case !(o.Headroom >= 0 && o.Headroom <= 0.5):
		return bad("Headroom", o.Headroom)
	case o.ClockError < 0 || o.ClockError > 0 && o.ClockError < time.Millisecond:
		return bad("ClockError", o.ClockError)
	case o.LoadTimeout < 0:
		return bad("LoadTimeout", o.LoadTimeout)
	case !evict.Kind(o.Policy).Valid():
		return bad("Policy", o.Policy)
	}
	if o.MaxEntries == 0 && o.MaxWeight == 0 {
		o.MaxEntries = 10_000
	}
	if o.LoadTimeout == 0 {
		o.LoadTimeout = 30 * time.Second
	}
	o.StaleFor, o.StaleIfError = min(o.StaleFor, forever), min(o.StaleIfError, forever)
	return o, nil
}

// forever bounds what is added to deadlines: 73 years, so that "always stale rather than nothing" does not become
// "always fresh".
const forever = 1 << 61

// New returns an empty cache. Close it when a TTL is used: a goroutine then removes what has expired.
func New[K comparable, V any](o Options[K, V]) (*Cache[K, V], error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache[K, V]{o: o, hasher: newHasher[K](), word: wordOf[V](), locking: evict.Kind(o.Policy).TouchNeedsLock(),
		allRich: o.Weigh != nil || o.Idle > 0 || o.EarlyRefresh > 0, stale: int64(max(o.StaleFor, o.StaleIfError)),
		stop: make(chan struct{})}
	c.shortest.Store(never)
	c.clock.Start()
	// A shard has at least 4096 entries, so that the policy sees enough of the traffic to judge by; weights get at most
	// eight, so that an entry of an eighth of the whole has a place.
	n, most := 1, 4*runtime.GOMAXPROCS(0)
	total := int64(o.MaxEntries)
	if o.Weigh != nil {
		most, total = min(8, most), o.MaxWeight
	}
	for n < most && total/int64(n*2) >= 4096 {
		n *= 2
	}
	c.shards = make([]shard[K, V], n)
	for i := range c.shards {
		s := &c.shards[i]
		s.max = total / int64(n)
		if int64(i) < total%int64(n) {
			s.max++
		}
		s.low = s.max - int64(o.Headroom*float64(s.max))
		s.policy = evict.New[*node[K, V]](evict.Kind(o.Policy), s.max)
		s.table.Store(newTable[K, V](0))
	}
	return c, nil
}

// locate splits a hash: the upper bits choose the shard, 30 others go into the node.
func (c *Cache[K, V]) locate(k K) (s *shard[K, V], hash uint32) {
	h := c.hasher.hash(k)
	return &c.shards[h>>40&uint64(len(c.shards)-1)], uint32(h) & (1<<30 - 1)
}

// now is the cache's clock: nanoseconds since its start.
func (c *Cache[K, V]) now() int64 { return c.clock.Now() }

// glance is the time for a read: exact, or what the ticker has noted.
func (c *Cache[K, V]) glance() int64 {
	if c.o.ClockError > 0 {
		if t := c.ticked.Load(); t != 0 {
			return t
		}
	}
	if c.counted.Load() {
		return c.clock.Renew()
	}
	return c.now()
}

// Get returns a fresh entry.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	s, hash := c.locate(k)
	var n *node[K, V]
	if c.counted.Load() {
		var at tick.Count
		if n, at = s.table.Load().findTimed(k, hash); n != nil {
			n.state.Visit()
			if v, ok = c.surely(n, at, 0); ok {
				c.counts[stripe()].hits.Add(1)
				return v, true
			}
		}
	} else if c.locking {
		n = c.touch(s, k, hash)
	} else if n = s.table.Load().find(k, hash); n != nil {
		n.state.Visit()
	}
	if n == nil {
		c.counts[stripe()].misses.Add(1)
		return v, false
	}
	if n.class() == plainClass {
		c.counts[stripe()].hits.Add(1)
		return c.value(n), true
	}
	if v, ok = c.peek(n, c.glance()); !ok {
		c.counts[stripe()].misses.Add(1)
		return v, false
	}
	c.counts[stripe()].hits.Add(1)
	return v, true
}

// surely is peek without the time, for the common case: the value of an entry that ends, and certainly had more than
// left of its life when the counter was read.
func (c *Cache[K, V]) surely(n *node[K, V], at tick.Count, left time.Duration) (v V, ok bool) {
	if n.class() == plainClass || n.negative() {
		return v, false
	}
	t := n.timed()
	end := t.expires.Load()
	if !c.clock.BeforeAt(at, end-int64(left)) {
		return v, false
	}
	v = c.value(n)
	return v, t.expires.Load() == end
}

// touch finds an entry and tells the policy.
func (c *Cache[K, V]) touch(s *shard[K, V], k K, hash uint32) *node[K, V] {
	if !c.locking {
		n := s.table.Load().find(k, hash)
		if n != nil {
			n.state.Visit()
		}
		return n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.table.Load().find(k, hash)
	if n != nil {
		s.policy.Touch(n)
	}
	return n
}

// peek returns the value of an entry that is fresh and not idle at now. The deadline is read before the value and again
// after it: a value that was written in place meanwhile is served under its own deadline.
func (c *Cache[K, V]) peek(n *node[K, V], now int64) (v V, ok bool) {
	for t := n.timed(); ; {
		end := t.expires.Load()
		if end <= now {
			return v, false
		}
		if v = c.value(n); t.expires.Load() == end {
			break
		}
	}
	if n.class() == richClass {
		r := n.rich()
		if r.negative {
			var zero V
			return zero, false
		}
		if c.o.Idle > 0 {
			if now-r.read.Load() >= int64(c.o.Idle) {
				var zero V
				return zero, false
			}
			r.read.Store(now)
		}
	}
	return v, true
}

// deadline is when an entry of this TTL ends.
func (c *Cache[K, V]) deadline(ttl time.Duration) int64 {
	if ttl == 0 || ttl == math.MaxInt64 {
		return never
	}
	if c.o.Jitter > 0 {
		ttl -= time.Duration(c.o.Jitter * rand.Float64() * float64(ttl))
	}
	now := c.now()
	if int64(ttl) > never-now-c.stale-1 {
		return never
	}
	if !c.timedSet.Load() || int64(ttl) < c.shortest.Load() {
		c.hire(int64(ttl))
	}
	return now + int64(ttl)
}

// Set stores an entry for Options.TTL. A Get that begins after Set returns sees it (unless it was evicted).
func (c *Cache[K, V]) Set(k K, v V) { c.set(k, v, c.deadline(c.o.TTL), true) }

// SetTTL stores an entry with its own TTL; ttl <= 0 removes the key, the largest Duration never expires.
func (c *Cache[K, V]) SetTTL(k K, v V, ttl time.Duration) {
	if ttl <= 0 {
		c.Delete(k)
		return
	}
	c.set(k, v, c.deadline(ttl), ttl == c.o.TTL)
}

// set stores an entry. usual says that it has the TTL of all others: of two writers without the lock, one may leave its
// value and the other its deadline.
func (c *Cache[K, V]) set(k K, v V, expires int64, usual bool) {
	e := entry[V]{value: v, expires: expires, weight: c.weigh(k, v)}
	s, hash := c.locate(k)
	if usual && c.inPlace(s, k, hash, &e) {
		return
	}
	var out removed[K, V]
	s.mu.Lock()
	s.fence(k)
	c.put(s, k, hash, &e, &out)
	s.mu.Unlock()
	c.report(&out)
}

// Delete removes the key, reports whether it was there, and makes loads of it that are under way not store their
// result.
func (c *Cache[K, V]) Delete(k K) bool {
	s, hash := c.locate(k)
	var out removed[K, V]
	s.mu.Lock()
	s.fence(k)
	n := s.table.Load().find(k, hash)
	if n != nil {
		c.drop(s, n, Deleted, &out)
	}
	s.mu.Unlock()
	c.report(&out)
	return n != nil && n.fresh() > c.now() && !n.negative()
}

// Clear removes everything, likewise for loads under way.
func (c *Cache[K, V]) Clear() {
	for i := range c.shards {
		s := &c.shards[i]
		var out removed[K, V]
		s.mu.Lock()
		for k := range s.flights {
			s.fence(k)
		}
		t := s.table.Load()
		t.each(0, len(t.buckets), func(n *node[K, V]) {
			s.deleted++
			c.note(&out, n, Deleted)
		})
		s.policy = evict.New[*node[K, V]](evict.Kind(c.o.Policy), s.max)
		s.table.Store(newTable[K, V](0))
		s.mu.Unlock()
		c.report(&out)
	}
}

// All iterates over the fresh entries, in no order, without holding a lock. It sees entries that stay throughout, and
// may or may not see those that come and go.
func (c *Cache[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range c.shards {
			t := c.shards[i].table.Load()
			for b := range t.buckets {
				more := true
				t.each(b, b+1, func(n *node[K, V]) {
					if !more {
						return
					}
					v, ok := c.value(n), true
					if n.class() != plainClass {
						v, ok = c.peek(n, c.now())
					}
					if ok {
						more = yield(n.key, v)
					}
				})
				if !more {
					return
				}
			}
		}
	}
}

// Len is the number of entries, expired ones not yet removed included.
func (c *Cache[K, V]) Len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += c.shards[i].policy.Len()
		c.shards[i].mu.Unlock()
	}
	return n
}

// Stats is cheap and safe at any time.
func (c *Cache[K, V]) Stats() Stats {
	l := &c.loads
	out := Stats{Loads: l.calls.Load(), LoadErrors: l.errors.Load(),
		LoadSeconds: time.Duration(l.nanos.Load()).Seconds(),
		Joined:      l.joined.Load(), Fenced: l.fenced.Load(), StaleServed: l.stale.Load()}
	for i := range c.counts {
		out.Hits += c.counts[i].hits.Load()
		out.Misses += c.counts[i].misses.Load()
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		out.Evicted += s.evicted
		out.Expired += s.expired
		out.Deleted += s.deleted
		out.Entries += int64(s.policy.Len())
		out.Weight += s.policy.Weight()
		s.mu.Unlock()
	}
	return out
}

// Put and Drop are Set and Delete in the form of [Tier].
func (c *Cache[K, V]) Put(_ context.Context, k K, v V) error { c.Set(k, v); return nil }

// Drop is Delete in the form of [Tier].
func (c *Cache[K, V]) Drop(_ context.Context, k K) error { c.Delete(k); return nil }
