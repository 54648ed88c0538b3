package cache

import (
	"context"
	"time"
)

// Store is the system of record behind a cache, for instance a table. A missing key is ErrNotFound for Get and no error for Delete.
type Store[K comparable, V any] interface {
	Get(ctx context.Context, k K) (V, error)
	Set(ctx context.Context, k K, v V) error
	Delete(ctx context.Context, k K) error
}

// Funcs makes a Store of three functions.
type Funcs[K comparable, V any] struct {
	GetFunc    func(ctx context.Context, k K) (V, error)
	SetFunc    func(ctx context.Context, k K, v V) error
	DeleteFunc func(ctx context.Context, k K) error
}

func (f Funcs[K, V]) Get(ctx context.Context, k K) (V, error) { return f.GetFunc(ctx, k) }
func (f Funcs[K, V]) Set(ctx context.Context, k K, v V) error { return f.SetFunc(ctx, k, v) }
func (f Funcs[K, V]) Delete(ctx context.Context, k K) error   { return f.DeleteFunc(ctx, k) }

// Tier is what the write patterns need of a cache: *Cache is one, *Tiered another.
type Tier[K comparable, V any] interface {
	Load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error)
	Put(ctx context.Context, k K, v V) error
	Drop(ctx context.Context, k K) error
}

// Through reads through a cache and writes to the store first (write-through).
type Through[K comparable, V any] struct{}

// NewThrough joins a cache and a store. With around, writes go around the cache: they delete the key instead of storing the new value.
func NewThrough[K comparable, V any](t Tier[K, V], s Store[K, V], around bool) *Through[K, V] {
	return &Through[K, V]{}
}

// Get returns the cached value, or reads it from the store and caches it.
func (t *Through[K, V]) Get(ctx context.Context, k K) (v V, err error) { return v, nil }

// Set writes to the store, then to the cache. After an error the outcome in the store is unknown and the key is not cached.
func (t *Through[K, V]) Set(ctx context.Context, k K, v V) error { return nil }

// Delete deletes from the store, then from the cache.
func (t *Through[K, V]) Delete(ctx context.Context, k K) error { return nil }

// BackOptions configure a write-back cache. The zero value is good.
type BackOptions struct {
	// Delay is how long a write waits for later ones of its key to replace it. Default 100 ms.
	Delay time.Duration
	// MaxPending bounds the keys waiting to be written; at the bound Set waits. Default 10,000.
	MaxPending int
	// Workers write different keys at the same time. Default 4.
	Workers int
	// Attempts after which a key is parked. Default 10, negative: no limit.
	Attempts int
	// RetryBase and RetryMax shape the backoff between attempts. Defaults 50 ms and 5 s.
	RetryBase, RetryMax time.Duration
}

// Back answers writes from memory and writes them to the store a little later, the latest value of each key only (write-back). Pending
// writes are lost when the process dies: use it where that is acceptable, such as counters that can be rebuilt.
type Back[K comparable, V any] struct{}

// NewBack joins a cache and a store. Close flushes.
func NewBack[K comparable, V any](c *Cache[K, V], s Store[K, V], o BackOptions) (*Back[K, V], error) {
	return &Back[K, V]{}, nil
}

// Get returns the newest value, pending or cached, or reads it from the store.
func (b *Back[K, V]) Get(ctx context.Context, k K) (v V, err error) { return v, nil }

// Set stores the value for reading now and for the store soon. It waits while MaxPending keys are pending.
func (b *Back[K, V]) Set(ctx context.Context, k K, v V) error { return nil }

// Delete does the same with a deletion.
func (b *Back[K, V]) Delete(ctx context.Context, k K) error { return nil }

// Flush returns when all writes made before the call are in the store or parked.
func (b *Back[K, V]) Flush(ctx context.Context) error { return nil }

// Pending is the number of keys not yet written.
func (b *Back[K, V]) Pending() int { return 0 }

// Parked returns the keys whose writes were given up, with the last error; reads still see their newest value. Retry puts them back.
func (b *Back[K, V]) Parked() map[K]error { return nil }

// Retry makes all parked keys pending again.
func (b *Back[K, V]) Retry() {}

// Close flushes within ctx and stops.
func (b *Back[K, V]) Close(ctx context.Context) error { return nil }
