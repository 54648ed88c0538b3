package cdn

import (
	"context"
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/evict"
)

// Cache stores responses. It is safe for concurrent use.
type Cache struct {
	o    Options
	seed maphash.Seed // keys are hashed with a secret, so that nobody can aim at one shard
	loop string       // this cache in CDN-Loop

	unkeyed map[string]bool // Options.Unkeyed

	index index
	tags  tagIndex
	disk  *disk // nil: off
	count counters

	hosts hosts

	mu      sync.Mutex // guards what follows
	policy  evict.Policy[*object]
	held    int64 // bytes of the objects in it, or in those of the hosts
	objects int
	filling atomic.Int64 // bytes of bodies that are not complete yet: they count, but can't be evicted

	fetches  flights
	slices   sliceFetches
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup
	closing  sync.RWMutex // guards closed against the start of work
	closed   bool
	closings []func()
}

// New returns a running cache. Close it.
func New(o Options) (*Cache, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache{o: o, seed: maphash.MakeSeed(), policy: evict.New[*object](evict.S3TK, o.MaxBytes)}
	c.loop = o.Name + "; id=" + randomID()
	c.unkeyed = map[string]bool{}
	for _, k := range o.Unkeyed {
		c.unkeyed[http.CanonicalHeaderKey(k)] = true
	}
	c.index.init()
	c.hosts.init(o.MaxHostBytes)
	c.fetches.init()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.Disk.Dir != "" {
		if c.disk, err = openDisk(c, o.Disk); err != nil {
			c.cancel()
			return nil, err
		}
	}
	return c, nil
}

// Close ends fills and background work and closes the disk tier. It is idempotent. Handlers of a closed cache pass
// requests through.
func (c *Cache) Close() error {
	c.closing.Lock()
	was := c.closed
	c.closed = true
	c.closing.Unlock()
	if was {
		return nil
	}
	c.cancel()
	c.work.Wait()
	for _, f := range c.closings {
		f()
	}
	if c.disk != nil {
		return c.disk.close()
	}
	return nil
}

// begin counts one more goroutine that Close waits for; false when the cache is closed.
func (c *Cache) begin() bool {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.closed {
		return false
	}
	c.work.Add(1)
	return true
}

// Handler caches what next serves. For a fill next runs on a goroutine of its own, detached from the client: a client
// that is slow or leaves disturbs nobody who waits for the same object. Requests that can't be cached call next as they
// are.
func (c *Cache) Handler(next http.Handler) http.Handler {
	return c.newEdge(edge{transport: handlerTransport{next}, direct: next})
}

// store makes o findable, in place of older ones. The body may still be filling. e.mu is held.
func (c *Cache) store(e *entry, o *object) {
	c.tags.add(o) // before what it replaces leaves: a purge by tag must find one of them at any moment
	for _, old := range e.publish(o, c.o.MaxVariants) {
		old.gone.Store(true)
		c.forget(old)
	}
	if c.disk != nil && o.onDisk.Load() == diskNo {
		c.disk.supersede(o)
	}
}

// forget takes an object that is out of the index out of everything else.
func (c *Cache) forget(o *object) {
	c.tags.remove(o)
	c.mu.Lock()
	c.letGo(o)
	if p := o.gz.Load(); p != nil && p != notWorth {
		p.gone.Store(true)
		c.letGo(p)
	}
	c.mu.Unlock()
}

// keep hands a complete object to the eviction policy, unless it was purged meanwhile. counted are its bytes among
// those of running fills.
func (c *Cache) keep(o *object, counted int64) {
	o.weigh()
	c.mu.Lock()
	c.filling.Add(-counted)
	if !o.gone.Load() {
		c.hold(o)
	}
	c.mu.Unlock()
	c.shrink(o.host)
	if c.disk != nil && o.wanted.Load() {
		c.disk.enqueue(o)
	}
}

// shrink evicts until the budget holds, and that of a host (nil: of none).
func (c *Cache) shrink(of *host) {
	for {
		c.mu.Lock()
		o, ok := c.victim(of)
		c.mu.Unlock()
		if !ok {
			return // or only fills are left; each is bounded by MaxObject
		}
		c.count.evictions.Add(1)
		c.remove(o)
	}
}

// remove takes an object out of the index.
func (c *Cache) remove(o *object) bool {
	e := c.index.lock(o.hash, o.key)
	was := e.drop(o)
	if e.part == o {
		e.part = nil
	}
	o.gone.Store(true)
	c.index.unlock(e, o.hash, time.Now())
	c.forget(o)
	return was
}

func (c *Cache) hash(key []byte) uint64       { return maphash.Bytes(c.seed, key) }
func (c *Cache) hashString(key string) uint64 { return maphash.String(c.seed, key) }

type counters struct {
	outcomes                                    [7]atomic.Uint64
	fills, evictions, purged, out, in, diskHits atomic.Uint64
	inFlight                                    atomic.Int64
}

// Stats of a [Cache].
type Stats struct {
	Hits        uint64 `metric:"hits_total,counter,Served fresh from the cache"`
	Stale       uint64 `metric:"stale_total,counter,Served stale"`
	Revalidated uint64 `metric:"revalidated_total,counter,Served after a 304"`
	Misses      uint64 `metric:"misses_total,counter,Fetched from the origin"`
	Collapsed   uint64 `metric:"collapsed_total,counter,Waited for another request's fetch"`
	Bypassed    uint64 `metric:"bypassed_total,counter,Passed through"`
	Errors      uint64 `metric:"errors_total,counter,Origin failures that reached a client"`
	Fills       uint64 `metric:"fills_total,counter,Requests to the origin that might be stored"`
	Evictions   uint64 `metric:"evictions_total,counter,Objects evicted to stay within the budget"`
	Purged      uint64 `metric:"purged_total,counter,Objects purged"`
	BytesOut    uint64 `metric:"bytes_out_total,counter,Body bytes sent to clients"`
	BytesIn     uint64 `metric:"bytes_in_total,counter,Body bytes from the origin"`
	Objects     int    `metric:"objects,gauge,Objects in memory"`
	Bytes       int64  `metric:"bytes,gauge,Bytes in memory"`
	DiskObjects int    `metric:"disk_objects,gauge,Objects on disk"`
	DiskBytes   int64  `metric:"disk_bytes,gauge,Bytes on disk"`
	DiskHits    uint64 `metric:"disk_hits_total,counter,Objects read from disk"`
	InFlight    int    `metric:"fills_in_flight,gauge,Fetches that run now"`
}

// Stats returns counters and gauges.
func (c *Cache) Stats() Stats {
	n := &c.count
	s := Stats{
		Hits: n.outcomes[Hit].Load(), Stale: n.outcomes[Stale].Load(), Revalidated: n.outcomes[Revalidated].Load(),
		Misses: n.outcomes[Miss].Load(), Collapsed: n.outcomes[Collapsed].Load(), Bypassed: n.outcomes[Bypass].Load(),
		Errors: n.outcomes[Failed].Load(), Fills: n.fills.Load(), Evictions: n.evictions.Load(),
		Purged:   n.purged.Load(),
		BytesOut: n.out.Load(), BytesIn: n.in.Load(), DiskHits: n.diskHits.Load(), InFlight: int(n.inFlight.Load()),
	}
	c.mu.Lock()
	s.Objects, s.Bytes = c.objects, c.held+c.filling.Load()
	c.mu.Unlock()
	if c.disk != nil {
		s.DiskObjects, s.DiskBytes = c.disk.stats()
	}
	return s
}
