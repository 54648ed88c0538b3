package cache

import (
	"context"
	"iter"
	"time"
)

// Cache holds entries in the process. It is safe for concurrent use; with the policies S3TK and FIFO a hit takes no lock and allocates nothing.
type Cache[K comparable, V any] struct{}

// New returns an empty cache. Close it when Options set a time.
func New[K comparable, V any](o Options[K, V]) (*Cache[K, V], error) { return &Cache[K, V]{}, nil }

// Get returns a fresh entry.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) { return v, false }

// Set stores an entry for Options.TTL. A Get that begins after Set returns sees it (unless it was evicted).
func (c *Cache[K, V]) Set(k K, v V) {}

// SetTTL stores an entry with its own TTL; ttl <= 0 removes the key, the largest Duration never expires.
func (c *Cache[K, V]) SetTTL(k K, v V, ttl time.Duration) {}

// Delete removes the key and makes loads of it that are under way not store their result.
func (c *Cache[K, V]) Delete(k K) bool { return false }

// Clear removes everything, likewise for loads under way.
func (c *Cache[K, V]) Clear() {}

// Load returns the entry or loads it: one call of load however many callers wait. See the package comment.
func (c *Cache[K, V]) Load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	return load(ctx, k)
}

// LoadMany returns what it can of the keys, loading all that are missing with one call. Keys that load does not return are not found.
func (c *Cache[K, V]) LoadMany(ctx context.Context, keys []K, load func(context.Context, []K) (map[K]V, error)) (map[K]V, error) {
	return load(ctx, keys)
}

// All iterates over the fresh entries, in no order, without blocking writers for long.
func (c *Cache[K, V]) All() iter.Seq2[K, V] { return func(func(K, V) bool) {} }

// Len is the number of entries, expired ones not yet removed included.
func (c *Cache[K, V]) Len() int { return 0 }

// Stats is cheap and safe at any time.
func (c *Cache[K, V]) Stats() Stats { return Stats{} }

// Close stops the cache's goroutine, if it has one, and its background refreshes. The cache stays readable. Idempotent.
func (c *Cache[K, V]) Close() error { return nil }

// Put and Drop are Set and Delete in the form of [Tier].
func (c *Cache[K, V]) Put(ctx context.Context, k K, v V) error { return nil }

// Drop is Delete in the form of [Tier].
func (c *Cache[K, V]) Drop(ctx context.Context, k K) error { return nil }
