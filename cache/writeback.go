package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Back answers writes from memory and writes them to the store a little later, the latest value of each key only
// (write-back). Writes of one key reach the store in order. Pending writes are lost when the process dies, unless there
// is a [Journal]: without one, use it where that is acceptable, such as counters that can be rebuilt. It is safe for
// concurrent use.
type Back[K comparable, V any] struct {
	cache *Cache[K, V]
	store Store[K, V]
	o     BackOptions

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // room, work, or progress
	pending map[K]*pendingWrite[V]
	parked  map[K]*pendingWrite[V]
	ready   []K // in the order of their first write; a key is in it at most once
	epoch   uint64
	coming  int  // writes on their way to the journal
	refuses bool // Close has begun
	closing bool
	tasks   sync.WaitGroup
	log     *backLog[K, V] // nil: no journal
	stats   struct{ writes, coalesced, stored, failures int64 }
}

// pendingWrite is the newest write of a key that is not in the store yet.
//
//	waiting --its time comes--> writing --ok--> gone, or waiting again when a newer write came meanwhile
//	                            writing --error--> waiting (backoff) --Attempts--> parked --Retry--> waiting
type pendingWrite[V any] struct {
	value    V
	deleted  bool
	version  uint64 // of value
	entry    uint64 // of value, in the journal
	epoch    uint64 // of the oldest write in it, for Flush
	writing  bool
	attempts int
	err      error
	timer    *time.Timer
}

// NewBack joins a cache and a store. Close flushes. The cache must not be written to directly.
func NewBack[K comparable, V any](c *Cache[K, V], s Store[K, V], o BackOptions) (*Back[K, V], error) {
	b, err := newBack(c, s, o)
	if err != nil {
		return nil, err
	}
	b.start()
	return b, nil
}

func newBack[K comparable, V any](c *Cache[K, V], s Store[K, V], o BackOptions) (*Back[K, V], error) {
	if c == nil || s == nil {
		return nil, errors.New("cache: NewBack needs a cache and a store")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Back[K, V]{cache: c, store: s, o: o, pending: map[K]*pendingWrite[V]{}, parked: map[K]*pendingWrite[V]{}}
	b.changed.L = &b.mu
	return b, nil
}

func (b *Back[K, V]) start() {
	for range b.o.Workers {
		b.tasks.Add(1)
		go b.work()
	}
}

// Get returns the newest value, pending, parked or cached, or reads it from the store.
func (b *Back[K, V]) Get(ctx context.Context, k K) (v V, err error) {
	if v, deleted, ok := b.unwritten(k); deleted {
		return v, ErrNotFound
	} else if ok {
		return v, nil
	}
	return b.cache.Load(ctx, k, b.read)
}

// unwritten is the newest write of a key that the store may not have.
func (b *Back[K, V]) unwritten(k K) (v V, deleted, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.pending[k]
	if w == nil {
		w = b.parked[k]
	}
	if w == nil {
		return v, false, false
	}
	return w.value, w.deleted, true
}

// read is the cache's loader. A write that came after Get had looked and before this load began did not fence it, and
// the store may have the older value still.
func (b *Back[K, V]) read(ctx context.Context, k K) (V, error) {
	if v, deleted, ok := b.unwritten(k); deleted {
		return v, ErrNotFound
	} else if ok {
		return v, nil
	}
	return b.store.Get(ctx, k)
}

// Set stores the value for reading now and for the store soon. It waits while MaxPending keys are pending. With a
// journal it returns when the write is durable, and reads see it from then on. Errors: ErrClosed, ctx's, those of the
// [Journal].
func (b *Back[K, V]) Set(ctx context.Context, k K, v V) error { return b.write(ctx, k, v, false) }

// Delete does the same with a deletion.
func (b *Back[K, V]) Delete(ctx context.Context, k K) error {
	var zero V
	return b.write(ctx, k, zero, true)
}

func (b *Back[K, V]) write(ctx context.Context, k K, v V, deleted bool) error {
	b.mu.Lock()
	var stop func() bool
	for b.pending[k] == nil && len(b.pending)+b.coming >= b.o.MaxPending && !b.refuses && ctx.Err() == nil {
		if stop == nil {
			stop = context.AfterFunc(ctx, b.wake)
			defer stop()
		}
		b.changed.Wait()
	}
	switch {
	case b.refuses:
		b.mu.Unlock()
		return fmt.Errorf("cache: write-back: %w", ErrClosed)
	case ctx.Err() != nil:
		b.mu.Unlock()
		return ctx.Err()
	}
	if b.log == nil {
		b.accept(k, v, deleted, 0)
		b.mu.Unlock()
		return nil
	}
	b.coming++
	b.mu.Unlock()
	return b.log.write(ctx, b, k, v, deleted)
}

// accept makes a write the newest of its key; b.mu is held.
func (b *Back[K, V]) accept(k K, v V, deleted bool, entry uint64) {
	b.epoch++
	b.stats.writes++
	w := b.pending[k]
	if w == nil {
		if w = b.parked[k]; w != nil { // a newer value gives a parked key a new chance
			delete(b.parked, k)
			w.attempts, w.err = 0, nil
		} else {
			w = &pendingWrite[V]{}
		}
		w.epoch = b.epoch
		b.pending[k] = w
		b.schedule(k, w, max(0, b.o.Delay))
	} else {
		b.stats.coalesced++
	}
	if w.entry != 0 {
		b.log.journal.Settle(w.entry) // this one takes its place
	}
	w.value, w.deleted, w.entry = v, deleted, entry
	w.version++
	// Under the lock, so that cache and pending agree on the order of writes.
	if deleted {
		b.cache.Delete(k)
	} else {
		b.cache.Set(k, v)
	}
}

func (b *Back[K, V]) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Broadcast()
}

// schedule makes the key ready after a delay; b.mu is held.
func (b *Back[K, V]) schedule(k K, w *pendingWrite[V], d time.Duration) {
	if d == 0 || b.closing {
		b.ready = append(b.ready, k)
		b.changed.Broadcast()
		return
	}
	w.timer = time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if w.timer != nil && b.pending[k] == w {
			w.timer = nil
			b.ready = append(b.ready, k)
			b.changed.Broadcast()
		}
	})
}

// hurry makes a waiting key ready at once; b.mu is held.
func (b *Back[K, V]) hurry(k K, w *pendingWrite[V]) {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
		b.ready = append(b.ready, k)
	}
}

// Flush returns when all writes made before the call are in the store or parked. It does not wait for their Delay, but
// for their backoff. With a ctx that has ended already it begins nothing.
func (b *Back[K, V]) Flush(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	target := b.epoch
	defer context.AfterFunc(ctx, b.wake)()
	for {
		old, ended := false, ctx.Err()
		for k, w := range b.pending {
			if w.epoch <= target {
				old = true
				if w.attempts == 0 && ended == nil {
					b.hurry(k, w)
				}
			}
		}
		if !old {
			return nil
		}
		if ended != nil {
			return fmt.Errorf("cache: flush: %d keys pending: %w", len(b.pending), ended)
		}
		b.changed.Broadcast()
		b.changed.Wait()
	}
}

// Pending is the number of keys not yet written.
func (b *Back[K, V]) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending)
}

// Parked returns the keys whose writes were given up, with the last error. Reads still see their newest value, and
// [Back.Retry] tries again.
func (b *Back[K, V]) Parked() map[K]error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := make(map[K]error, len(b.parked))
	for k, w := range b.parked {
		m[k] = w.err
	}
	return m
}

// Retry makes all parked keys pending again.
func (b *Back[K, V]) Retry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return
	}
	for k, w := range b.parked {
		delete(b.parked, k)
		w.attempts = 0
		b.epoch++
		w.epoch = b.epoch
		b.pending[k] = w
		if w.entry != 0 {
			b.log.journal.Note(w.entry, nil)
		}
		b.schedule(k, w, 0)
	}
}

// Close refuses new writes, flushes what is pending until ctx ends, and stops. An error names how many keys could not
// be written; they are in Parked, and with a journal they are pending again at the next open.
func (b *Back[K, V]) Close(ctx context.Context) error {
	b.mu.Lock()
	b.refuses = true
	b.changed.Broadcast()
	for b.coming > 0 {
		b.changed.Wait()
	}
	b.mu.Unlock()
	err := b.Flush(ctx)
	b.mu.Lock()
	b.closing = true
	for k, w := range b.pending {
		if w.timer != nil {
			w.timer.Stop()
			w.timer = nil
		}
		if !w.writing {
			delete(b.pending, k)
			w.err = errors.Join(w.err, ErrClosed)
			b.parked[k] = w
		}
	}
	b.ready = nil
	b.changed.Broadcast()
	b.mu.Unlock()
	b.tasks.Wait()
	if n := len(b.Parked()) + b.Pending(); n > 0 {
		err = errors.Join(err, fmt.Errorf("cache: %d keys are not in the store", n))
	}
	if b.log != nil {
		err = errors.Join(err, b.log.journal.Close())
	}
	return err
}
