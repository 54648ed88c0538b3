package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Remote is a second tier that many processes share, such as cache/rediscache. All methods are safe for concurrent use.
type Remote interface {
	// Fetch returns the value of a key, or a lease to fill it with, or neither when another process holds the lease.
	Fetch(ctx context.Context, key string) (Fetched, error)
	// Fill stores a value under a lease. False: the lease was dropped by a Delete or Set, or ended, and nothing was
	// stored.
	Fill(ctx context.Context, key, lease string, value []byte, ttl time.Duration) (bool, error)
	// Release gives a lease back unused.
	Release(ctx context.Context, key, lease string) error
	// Set stores a value, drops leases, and returns nil when no process that obeys Watch and Trusted serves an older
	// one.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Delete removes the value, drops leases, and returns nil when no process that obeys Watch and Trusted serves it.
	Delete(ctx context.Context, key string) error
	// Watch registers the owner of a first tier. drop is called for every key that any process has changed, this one
	// included, and flush when messages may have been missed. Both must have taken effect when they return.
	Watch(drop func(key string), flush func()) (stop func())
	// Trusted reports whether what a first tier holds may be served: the remote has confirmed, recently enough, that
	// all changes have reached it.
	Trusted() bool
}

// RemoteMany is what a Remote offers when it can do many keys in one round trip.
type RemoteMany interface {
	// FetchMany is Fetch of every key, in their order.
	FetchMany(ctx context.Context, keys []string) ([]Fetched, error)
	// FillMany is Fill, or Release where Value is nil, of every key under its lease.
	FillMany(ctx context.Context, keys []string, filled []Filled, ttl time.Duration) ([]bool, error)
}

// Filled is a value for a lease.
type Filled struct {
	Lease string
	Value []byte
}

// Fetched is what Remote.Fetch found.
type Fetched struct {
	Value []byte        // nil: no value
	TTL   time.Duration // left of Value's life
	Lease string        // set: the caller should load and Fill, or Release
}

// Codec turns values into bytes and back. Safe for concurrent use.
type Codec[V any] interface {
	Encode(V) ([]byte, error)
	Decode([]byte) (V, error)
}

// TieredOptions configure a [Tiered]. The zero value is good.
type TieredOptions[K comparable, V any] struct {
	// Key turns a key into a string for the remote tier. Default: fmt.Sprint. It must not map two keys to one string.
	Key func(K) string
	// Parse is Key's inverse, for invalidations. Needed only when K is not a string type or Key is set; without it an
	// invalidation from another process empties the whole first tier.
	Parse func(string) (K, bool)
	// Codec of the values. Default JSON.
	Codec Codec[V]
	// TTL in the remote tier. Default: the first tier's TTL, or 1 h.
	TTL time.Duration
	// WaitFor is how long a miss waits for another process's load before it loads itself, uncached. Default 2 s.
	WaitFor time.Duration
}

// Tiered is a first tier in the process over a second one that all processes share. After Drop or Put has returned nil,
// no process that uses the same remote serves the older value. While the remote is away, every Load reads the source:
// nothing is cached that could not be taken back. It is safe for concurrent use.
type Tiered[K comparable, V any] struct {
	l1    *Cache[K, V]
	l2    Remote
	o     TieredOptions[K, V]
	stop  func()
	later later[K, V]
	stats struct{ l1, l2, loads, waits, fenced, errors, untrusted, dropped, flushed atomic.Int64 }
}

// NewTiered joins the tiers. The cache must be used by this Tiered only. Close it before the cache and the remote.
func NewTiered[K comparable, V any](l1 *Cache[K, V], l2 Remote, o TieredOptions[K, V]) (*Tiered[K, V], error) {
	if l1 == nil || l2 == nil {
		return nil, errors.New("cache: NewTiered needs a cache and a remote")
	}
	if o.TTL < 0 {
		return nil, fmt.Errorf("cache: TieredOptions.TTL is %v", o.TTL)
	}
	if o.WaitFor < 0 {
		return nil, fmt.Errorf("cache: TieredOptions.WaitFor is %v", o.WaitFor)
	}
	if o.Key == nil {
		var zero K
		if _, ok := any(zero).(string); ok {
			o.Key = func(k K) string { return any(k).(string) }
			if o.Parse == nil {
				o.Parse = func(s string) (K, bool) { k, ok := any(s).(K); return k, ok }
			}
		} else {
			o.Key = func(k K) string { return fmt.Sprint(k) }
		}
	}
	if o.Parse == nil {
		o.Parse = parser[K]()
	}
	if o.Codec == nil {
		o.Codec = JSON[V]{}
	}
	if o.TTL == 0 {
		if o.TTL = l1.o.TTL; o.TTL == 0 {
			o.TTL = time.Hour
		}
	}
	if o.WaitFor == 0 {
		o.WaitFor = 2 * time.Second
	}
	t := &Tiered[K, V]{l1: l1, l2: l2, o: o}
	l1.tiered = true
	t.stop = l2.Watch(t.invalidate, func() {
		t.stats.flushed.Add(1)
		l1.Clear()
	})
	return t, nil
}

// parser is the inverse of fmt.Sprint for integers.
func parser[K comparable]() func(string) (K, bool) {
	var zero K
	switch any(zero).(type) {
	case int, int64, int32, uint, uint64, uint32:
		return func(s string) (k K, ok bool) {
			n, err := fmt.Sscan(s, &k)
			return k, n == 1 && err == nil
		}
	}
	return nil
}

func (t *Tiered[K, V]) invalidate(key string) {
	t.stats.dropped.Add(1)
	if t.o.Parse != nil {
		if k, ok := t.o.Parse(key); ok {
			t.l1.Delete(k)
			return
		}
	}
	t.l1.Clear()
}

// Load returns the entry from the nearest tier that has it, or loads it: once across all processes, as long as the
// remote works. When the remote fails, it loads without storing.
func (t *Tiered[K, V]) Load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	// Trusted is asked before the entry is read: all changes acknowledged until now are then applied to what will be
	// read. Asked afterwards, it could speak of a first tier that was emptied in between.
	trusted := t.l2.Trusted()
	s, hash := t.l1.locate(k)
	v, found := t.l1.lookup(s, k, hash)
	if trusted && found == present {
		t.stats.l1.Add(1)
		return v, nil
	}
	if trusted {
		var asked atomic.Bool
		v, err := t.l1.Load(ctx, k, func(ctx context.Context, k K) (V, error) {
			asked.Store(true)
			return t.fetch(ctx, k, load)
		})
		if asked.Load() || t.l2.Trusted() {
			return v, err
		}
	}
	t.stats.untrusted.Add(1)
	return t.later.do(ctx, k, func(ctx context.Context, k K) (V, error) {
		return t.direct(ctx, k, load)
	}, t.l1.o.LoadTimeout)
}

// direct serves while the first tier may miss invalidations: from the second tier, or from the source.
func (t *Tiered[K, V]) direct(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	var l limit
	return t.fetch(context.WithValue(ctx, limitKey{}, &l), k, load)
}

// leasePolicy is how often another process's load is asked for.
var leasePolicy = backoff.Policy{Base: 4 * time.Millisecond, Max: 50 * time.Millisecond}

// fetch looks in the second tier, and loads under a lease of it.
func (t *Tiered[K, V]) fetch(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	l := ctx.Value(limitKey{}).(*limit)
	key := t.o.Key(k)
	end := time.Now().Add(t.o.WaitFor)
	for attempt := 0; ; attempt++ {
		got, err := t.l2.Fetch(ctx, key)
		switch {
		case err != nil:
			t.stats.errors.Add(1)
			return t.uncached(ctx, k, load, l)
		case got.Value != nil:
			v, err := t.o.Codec.Decode(got.Value)
			if err != nil { // written by another version of the program
				t.stats.errors.Add(1)
				return t.uncached(ctx, k, load, l)
			}
			t.stats.l2.Add(1)
			l.ttl = max(got.TTL, 1)
			return v, nil
		case got.Lease != "":
			return t.fill(ctx, k, key, got.Lease, load, l)
		}
		t.stats.waits.Add(1)
		d := leasePolicy.Delay(attempt)
		if time.Now().Add(d).After(end) {
			return t.uncached(ctx, k, load, l)
		}
		if err := backoff.Sleep(ctx, d+time.Millisecond); err != nil {
			var zero V
			return zero, err
		}
	}
}

func (t *Tiered[K, V]) uncached(ctx context.Context, k K, load func(context.Context, K) (V, error), l *limit) (V,
	error) {
	l.skip = true
	t.stats.loads.Add(1)
	return load(ctx, k)
}

func (t *Tiered[K, V]) fill(ctx context.Context, k K, key, lease string, load func(context.Context, K) (V, error),
	l *limit) (v V, err error) {
	done := false
	defer func() {
		if !done { // error or panic: others need not wait for the lease to end
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = t.l2.Release(ctx, key, lease)
		}
	}()
	t.stats.loads.Add(1)
	l.skip = true
	if v, err = load(ctx, k); err != nil {
		l.skip = !errors.Is(err, ErrNotFound)
		return v, err
	}
	data, err := t.o.Codec.Encode(v)
	if err != nil {
		return v, nil // cannot be shared, and so not be invalidated
	}
	if data == nil {
		data = []byte{}
	}
	stored, err := t.l2.Fill(ctx, key, lease, data, t.o.TTL)
	switch {
	case err != nil:
		t.stats.errors.Add(1)
	case !stored:
		done = true
		t.stats.fenced.Add(1) // written meanwhile: good enough for those who asked before that, and for nobody else
	default:
		done = true
		l.skip, l.ttl = false, t.o.TTL
	}
	return v, nil
}

// Put stores the value in the shared tier and removes older ones from every process's first tier. On an error the older
// one may still be served somewhere: try again, or Drop.
func (t *Tiered[K, V]) Put(ctx context.Context, k K, v V) error {
	data, err := t.o.Codec.Encode(v)
	if err != nil {
		return fmt.Errorf("cache: encode: %w", err)
	}
	if data == nil {
		data = []byte{}
	}
	return t.change(k, func(key string) error { return t.l2.Set(ctx, key, data, t.o.TTL) })
}

// Drop deletes the key from every tier of every process. On an error it may still be served somewhere: try again.
func (t *Tiered[K, V]) Drop(ctx context.Context, k K) error {
	return t.change(k, func(key string) error { return t.l2.Delete(ctx, key) })
}

func (t *Tiered[K, V]) change(k K, write func(key string) error) error {
	t.l1.Delete(k)
	err := write(t.o.Key(k))
	t.l1.Delete(k) // what was read from the second tier in between
	if err != nil {
		t.stats.errors.Add(1)
		return fmt.Errorf("cache: second tier: %w", err)
	}
	return nil
}

// Stats is cheap and safe at any time.
func (t *Tiered[K, V]) Stats() TieredStats {
	s := &t.stats
	return TieredStats{L1Hits: s.l1.Load(), L2Hits: s.l2.Load(), Loads: s.loads.Load(), LeaseWaits: s.waits.Load(),
		Fenced:       s.fenced.Load(),
		RemoteErrors: s.errors.Load(), Untrusted: s.untrusted.Load(), Dropped: s.dropped.Load(),
		Flushed: s.flushed.Load()}
}

// Close stops watching the remote, and does not wait for loads under way. Idempotent.
func (t *Tiered[K, V]) Close() error {
	t.stop()
	return nil
}

// TieredStats are the counters of a [Tiered].
type TieredStats struct {
	L1Hits       int64 `metric:"l1_hits_total,counter,Answered by the first tier"`
	L2Hits       int64 `metric:"l2_hits_total,counter,Answered by the second tier"`
	Loads        int64 `metric:"loads_total,counter,Calls of a loader"`
	LeaseWaits   int64 `metric:"lease_waits_total,counter,Times a miss waited for another process's load"`
	Fenced       int64 `metric:"fills_fenced_total,counter,Fills refused because of a newer write"`
	RemoteErrors int64 `metric:"remote_errors_total,counter,Failed operations of the second tier"`
	Untrusted    int64 `metric:"l1_untrusted_total,counter,First-tier reads skipped because invalidations may be missing"`
	Dropped      int64 `metric:"invalidations_total,counter,Keys dropped because a process changed them"`
	Flushed      int64 `metric:"flushes_total,counter,First tier emptied because invalidations may be missing"`
}

// JSON is the default [Codec].
type JSON[V any] struct{}

func (JSON[V]) Encode(v V) ([]byte, error) { return json.Marshal(v) }

func (JSON[V]) Decode(b []byte) (v V, err error) { err = json.Unmarshal(b, &v); return v, err }

// Bytes is the Codec of byte slices: none.
type Bytes struct{}

func (Bytes) Encode(b []byte) ([]byte, error) { return b, nil }
func (Bytes) Decode(b []byte) ([]byte, error) { return b, nil }
