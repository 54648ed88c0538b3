package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Store is the system of record behind a cache, for instance a table. A missing key is ErrNotFound for Get and no error
// for Delete.
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

// Through reads through a cache and writes to the store first (write-through). It is safe for concurrent use.
type Through[K comparable, V any] struct {
	tier   Tier[K, V]
	store  Store[K, V]
	around bool

	mu     sync.Mutex      // guards writes
	writes map[K]*keyWrite // of the keys that are being written
}

// keyWrite lets the writes of a key through one after the other.
type keyWrite struct {
	turn   chan struct{} // cap 1: full while one is under way
	people int           // under way and waiting
}

// NewThrough joins a cache and a store. With around, writes go around the cache: they delete the key instead of storing
// the new value. That is also the choice when several processes write the same keys: of two writers, the one that
// reaches the store last need not be the one that reaches the cache last.
func NewThrough[K comparable, V any](t Tier[K, V], s Store[K, V], around bool) *Through[K, V] {
	return &Through[K, V]{tier: t, store: s, around: around, writes: map[K]*keyWrite{}}
}

// Get returns the cached value, or reads it from the store and caches it (read-through).
func (t *Through[K, V]) Get(ctx context.Context, k K) (v V, err error) {
	return t.tier.Load(ctx, k, t.store.Get)
}

// begin waits for this process's other writes of the key, so that store and cache see them in the same order.
func (t *Through[K, V]) begin(ctx context.Context, k K) (end func(), err error) {
	t.mu.Lock()
	w := t.writes[k]
	if w == nil {
		w = &keyWrite{turn: make(chan struct{}, 1)}
		t.writes[k] = w
	}
	w.people++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if w.people--; w.people == 0 {
			delete(t.writes, k)
		}
	}
	select {
	case w.turn <- struct{}{}:
		return func() { <-w.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("cache: not written: %w", ctx.Err())
	}
}

// Set writes to the store, then to the cache; writes of one key through one Through take turns. When the store fails,
// whether it has stored the value is unknown, and the key is deleted from the cache, so that the next Get finds out.
func (t *Through[K, V]) Set(ctx context.Context, k K, v V) error {
	end, err := t.begin(ctx, k)
	if err != nil {
		return err
	}
	defer end()
	if err := t.store.Set(ctx, k, v); err != nil {
		return t.unknown(ctx, k, "set", err)
	}
	if t.around {
		return t.drop(ctx, k)
	}
	if err := t.tier.Put(ctx, k, v); err != nil {
		return errors.Join(fmt.Errorf("cache: stored, but not cached: %w", err), t.drop(ctx, k))
	}
	return nil
}

// Delete deletes from the store, then from the cache.
func (t *Through[K, V]) Delete(ctx context.Context, k K) error {
	end, err := t.begin(ctx, k)
	if err != nil {
		return err
	}
	defer end()
	if err := t.store.Delete(ctx, k); err != nil {
		return t.unknown(ctx, k, "delete", err)
	}
	return t.drop(ctx, k)
}

// drop goes on when ctx has ended: the store has changed, and the cache must not keep the old value.
func (t *Through[K, V]) drop(ctx context.Context, k K) error {
	return t.tier.Drop(context.WithoutCancel(ctx), k)
}

func (t *Through[K, V]) unknown(ctx context.Context, k K, op string, err error) error {
	return errors.Join(fmt.Errorf("cache: %s in the store: %w", op, err), t.drop(ctx, k))
}
