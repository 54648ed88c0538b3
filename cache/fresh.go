package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// Fresh is a [Cache] that knows how new its values are: each comes with a position (a log sequence number, a version, a
// time), and a key that has changed at a position is not filled with anything older. A replica that lags can then be
// read from without harm: what it says may be served once, but never comes into the cache in the place of something
// newer. It is safe for concurrent use.
type Fresh[K comparable, V, P any] struct {
	c       *Cache[K, positioned[V, P]]
	compare func(a, b P) int

	mu     sync.RWMutex // guards what follows
	floors map[K]P      // what each key must at least have
	all    P            // what every key must have: what has been forgotten of floors
}

type positioned[V, P any] struct {
	value V
	at    P
}

// NewFresh returns an empty cache. compare orders positions as cmp.Compare does; the zero value of P must not be after
// any other. The options are those of New.
func NewFresh[K comparable, V, P any](o Options[K, V], compare func(a, b P) int) (*Fresh[K, V, P], error) {
	inner, err := wrapOptions(o, func(x positioned[V, P]) V { return x.value })
	if err != nil {
		return nil, err
	}
	c, err := New(inner)
	if err != nil {
		return nil, err
	}
	c.dated = true
	return &Fresh[K, V, P]{c: c, compare: compare, floors: map[K]P{}}, nil
}

// floor is the least position that a key's value may have.
func (f *Fresh[K, V, P]) floor(k K) P {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if p, ok := f.floors[k]; ok && f.compare(p, f.all) > 0 {
		return p
	}
	return f.all
}

func (f *Fresh[K, V, P]) later(a, b P) P {
	if f.compare(a, b) >= 0 {
		return a
	}
	return b
}

// Changed says that a key has another value from a position on, such as that of the commit that wrote it: older values
// of it are invalid, those that are being loaded included. Call it before the write is acknowledged.
func (f *Fresh[K, V, P]) Changed(k K, at P) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.floors) >= maxChanged { // all keys are as demanding as the newest was
		for _, p := range f.floors {
			f.all = f.later(f.all, p)
		}
		clear(f.floors)
	}
	f.floors[k] = f.later(at, f.floors[k])
}

// Get returns a fresh entry that is at least as new as the key's last change and as least, the caller's own position;
// pass the zero value for none.
func (f *Fresh[K, V, P]) Get(k K, least P) (v V, ok bool) {
	x, ok := f.c.Get(k)
	if !ok || f.compare(x.at, f.later(least, f.floor(k))) < 0 {
		return v, false
	}
	return x.value, true
}

// Set stores a value as of a position, unless something newer is there or known to exist. It reports whether it did.
func (f *Fresh[K, V, P]) Set(k K, v V, at P) bool {
	f.Changed(k, at)
	if f.compare(at, f.floor(k)) < 0 {
		return false
	}
	f.c.Set(k, positioned[V, P]{v, at})
	if f.compare(at, f.floor(k)) < 0 { // a newer one came in between, and may have been overwritten
		f.c.deleteIf(k, func(x positioned[V, P]) bool { return f.compare(x.at, f.floor(k)) < 0 })
		return false
	}
	return true
}

// Load is [Cache.Load] with a loader that is told how new its value should be, so that it can choose a node that has
// come so far, and says how new it is, also with ErrNotFound. An older one is returned to those who asked, and not
// kept.
func (f *Fresh[K, V, P]) Load(ctx context.Context, k K, least P,
	load func(ctx context.Context, k K, least P) (V, P, error)) (V, error) {
	want := f.later(least, f.floor(k))
	for attempt := 0; ; attempt++ {
		var own atomic.Pointer[P] // how new this call's load found it; it may go on in the background
		x, err := f.c.Load(ctx, k, func(ctx context.Context, k K) (x positioned[V, P], err error) {
			x.value, x.at, err = load(ctx, k, f.later(want, f.floor(k)))
			at := x.at
			own.Store(&at)
			return x, err
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return x.value, err
		}
		old := func(y positioned[V, P]) bool { return f.compare(y.at, f.floor(k)) < 0 }
		if old(x) {
			f.c.deleteIf(k, old)
		}
		at := own.Load()
		mine := at != nil && f.compare(*at, x.at) == 0
		// what others loaded may be older than this caller needs
		if f.compare(x.at, want) >= 0 || mine || attempt == 3 {
			return x.value, err
		}
		f.c.deleteIf(k, func(y positioned[V, P]) bool { return f.compare(y.at, want) < 0 })
	}
}

// Delete removes an entry. Without a position it does not keep an older value from being loaded by a later load: that
// is what Changed is for.
func (f *Fresh[K, V, P]) Delete(k K) bool { return f.c.Delete(k) }

// Len counts entries, Stats are those of the cache.
func (f *Fresh[K, V, P]) Len() int     { return f.c.Len() }
func (f *Fresh[K, V, P]) Stats() Stats { return f.c.Stats() }

// Close ends the cache's goroutine.
func (f *Fresh[K, V, P]) Close() error { return f.c.Close() }
