package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Tagged is a [Cache] whose entries carry tags, all of which can be made invalid by one of them: every page that shows
// a product, when the product changes. It is safe for concurrent use.
//
// DeleteTag only notes that the tag has changed, which takes the same time for one entry and for a million. An entry is
// invalid if one of its tags has changed since its load began, so a load that is under way cannot bring an old value
// back. Invalid entries leave when they are asked for, or as any other. A tag is known to this process; tell the others
// by whatever tells them of changes.
type Tagged[K comparable, V any] struct {
	c *Cache[K, tagged[V]]

	mu      sync.RWMutex // guards what follows
	seq     uint64       // of changes
	changed map[string]uint64
	floor   uint64 // everything older is invalid: what has been forgotten of changed
}

// tagged is a value with its tags and what had changed before it was made.
type tagged[V any] struct {
	value V
	tags  []string
	seq   uint64
}

// maxChanged bounds the memory for changed tags. Beyond it all entries become invalid, once.
const maxChanged = 100_000

// NewTagged returns an empty cache. The options are those of New.
func NewTagged[K comparable, V any](o Options[K, V]) (*Tagged[K, V], error) {
	inner, err := wrapOptions(o, func(t tagged[V]) V { return t.value })
	if err != nil {
		return nil, err
	}
	c, err := New(inner)
	if err != nil {
		return nil, err
	}
	c.dated = true
	return &Tagged[K, V]{c: c, changed: map[string]uint64{}}, nil
}

// wrapOptions are the options for a cache that stores more than the caller sees.
func wrapOptions[K comparable, V, W any](o Options[K, V], value func(W) V) (w Options[K, W], err error) {
	if o, err = o.withDefaults(); err != nil {
		return w, err
	}
	w = Options[K, W]{MaxEntries: o.MaxEntries, MaxWeight: o.MaxWeight, TTL: o.TTL, Jitter: o.Jitter, Idle: o.Idle,
		StaleFor: o.StaleFor, StaleIfError: o.StaleIfError,
		NegativeTTL: o.NegativeTTL, EarlyRefresh: o.EarlyRefresh, RefreshAhead: o.RefreshAhead, Headroom: o.Headroom,
		LoadTimeout: o.LoadTimeout, ClockError: o.ClockError, Policy: o.Policy}
	if o.Weigh != nil {
		w.Weigh = func(k K, x W) int64 { return o.Weigh(k, value(x)) }
	}
	if o.OnRemove != nil {
		w.OnRemove = func(k K, x W, c Cause) { o.OnRemove(k, value(x), c) }
	}
	return w, nil
}

// now is the number of the latest change.
func (t *Tagged[K, V]) now() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.seq
}

func (t *Tagged[K, V]) valid(x *tagged[V]) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if x.seq < t.floor {
		return false
	}
	for _, tag := range x.tags {
		if t.changed[tag] > x.seq {
			return false
		}
	}
	return true
}

// Get returns a fresh entry none of whose tags has changed.
func (t *Tagged[K, V]) Get(k K) (v V, ok bool) {
	x, ok := t.c.Get(k)
	if !ok || !t.valid(&x) {
		return v, false
	}
	return x.value, true
}

// Set stores a value with its tags. They must not be changed afterwards.
func (t *Tagged[K, V]) Set(k K, v V, tags ...string) { t.c.Set(k, tagged[V]{v, tags, t.now()}) }

// SetTTL is Set with a TTL of its own.
func (t *Tagged[K, V]) SetTTL(k K, v V, ttl time.Duration, tags ...string) {
	t.c.SetTTL(k, tagged[V]{v, tags, t.now()}, ttl)
}

// Load is [Cache.Load] with a loader that says which tags its value has, or ErrNotFound, where that is remembered. A
// value one of whose tags changed while it was loaded is given to those who asked before the change, and loaded again
// for others.
func (t *Tagged[K, V]) Load(ctx context.Context, k K, load func(context.Context, K) (V, []string, error)) (V, error) {
	asked := t.now()
	for {
		x, err := t.c.Load(ctx, k, func(ctx context.Context, k K) (x tagged[V], err error) {
			x.seq = t.now()
			x.value, x.tags, err = load(ctx, k)
			return x, err
		})
		if err != nil && !errors.Is(err, ErrNotFound) || x.seq >= asked || t.valid(&x) {
			return x.value, err
		}
		// not a newer one, that somebody else has loaded
		t.c.deleteIf(k, func(y tagged[V]) bool { return y.seq <= x.seq })
	}
}

// Delete removes an entry; a load of it that is under way does not bring it back.
func (t *Tagged[K, V]) Delete(k K) bool { return t.c.Delete(k) }

// DeleteTag makes every entry with one of the tags invalid, also those that are being loaded.
func (t *Tagged[K, V]) DeleteTag(tags ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	if len(t.changed)+len(tags) > maxChanged {
		clear(t.changed)
		t.floor = t.seq
		return
	}
	for _, tag := range tags {
		t.changed[tag] = t.seq
	}
}

// Clear removes everything.
func (t *Tagged[K, V]) Clear() { t.c.Clear() }

// Len counts entries, invalid ones included that have not left yet.
func (t *Tagged[K, V]) Len() int { return t.c.Len() }

// Stats are those of the cache; an invalid entry counts as a hit of it.
func (t *Tagged[K, V]) Stats() Stats { return t.c.Stats() }

// Close ends the cache's goroutine.
func (t *Tagged[K, V]) Close() error { return t.c.Close() }

// deleteIf removes an entry, also one that stands for "not found", whose value the function wants to go. It does not
// touch a load that is under way.
func (c *Cache[K, V]) deleteIf(k K, f func(V) bool) bool {
	s, hash := c.locate(k)
	var out removed[K, V]
	s.mu.Lock()
	n := s.table.Load().find(k, hash)
	found := n != nil && f(c.value(n))
	if found {
		c.drop(s, n, Deleted, &out)
	}
	s.mu.Unlock()
	c.report(&out)
	return found
}
