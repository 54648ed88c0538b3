package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/tierkit/tierkit/internal/tick"
)

// flight is one load of one key, and everybody who waits for it.
//
//	begun --load returns--> stored, or not stored because the key was written meanwhile (fenced)
//
// A fenced flight is no longer in the shard's map: who comes after the write begins a new one, who came before gets the
// old one's result.
type flight[V any] struct {
	done   chan struct{}
	value  V
	err    error
	weight int64 // of value
	fenced bool  // guarded by the shard's lock
	limit  limit
}

// Load returns the entry or loads it: load is called once however many callers wait. A caller that gives up (its ctx
// ends) does not end the load, which runs for at most Options.LoadTimeout with the values of the first caller's
// context. A panic of load is an error for all who wait. With the options StaleFor, StaleIfError, NegativeTTL and
// EarlyRefresh see there. Errors: load's, wrapped; ctx's; [ErrNotFound].
func (c *Cache[K, V]) Load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	s, hash := c.locate(k)
	if v, verdict := c.lookup(s, k, hash); verdict != absent {
		switch verdict {
		case early, stale:
			c.refresh(ctx, s, k, hash, load)
		case notFound:
			return v, fmt.Errorf("%w (cached)", ErrNotFound)
		}
		return v, nil
	}
	f, mine := c.board(s, k, hash)
	if f == nil { // came while we looked
		return c.Load(ctx, k, load)
	}
	if mine {
		go c.fly(context.WithoutCancel(ctx), f, s, k, hash, load)
	} else {
		c.loads.joined.Add(1)
	}
	return c.await(ctx, f, s, k, hash)
}

// limit is what a second tier says about a value on its way into this cache: it travels in the context of a load.
type limit struct {
	ttl  time.Duration // 0: Options.TTL
	skip bool          // do not store it
}

type limitKey struct{}

func (c *Cache[K, V]) await(ctx context.Context, f *flight[V], s *shard[K, V], k K, hash uint32) (v V, err error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return v, ctx.Err()
	}
	if f.err != nil && !errors.Is(f.err, ErrNotFound) && c.o.StaleIfError > 0 {
		if n := s.table.Load().find(k, hash); n != nil && !n.negative() && n.fresh() > c.now()-int64(c.o.StaleIfError) {
			c.loads.stale.Add(1)
			return c.value(n), nil
		}
	}
	return f.value, f.err
}

// verdict says what a look-up found.
type verdict uint8

const (
	absent   verdict = iota
	present          // fresh
	early            // fresh, and to be refreshed soon
	stale            // not fresh, and served while it is refreshed
	notFound         // known not to exist
)

func (c *Cache[K, V]) lookup(s *shard[K, V], k K, hash uint32) (v V, _ verdict) {
	var n *node[K, V]
	cs := &c.counts[stripe()]
	if c.counted.Load() {
		var at tick.Count
		if n, at = s.table.Load().findTimed(k, hash); n != nil {
			n.state.Visit()
			if v, ok := c.surely(n, at, c.o.RefreshAhead); ok && c.o.EarlyRefresh == 0 {
				cs.hits.Add(1)
				return v, present
			}
		}
	} else {
		n = c.touch(s, k, hash)
	}
	if n == nil {
		cs.misses.Add(1)
		return v, absent
	}
	if n.class() == plainClass {
		cs.hits.Add(1)
		return c.value(n), present
	}
	now := c.glance()
	end := n.fresh()
	if n.negative() {
		if end > now {
			cs.hits.Add(1)
			return c.value(n), notFound
		}
		cs.misses.Add(1)
		return v, absent
	}
	if v, ok := c.peek(n, now); ok {
		cs.hits.Add(1)
		if c.o.EarlyRefresh > 0 && end != never {
			// XFetch (Vattani, Chierichetti, Lowenstein 2015): -delta * beta * ln(rand) before the end.
			if r := n.rich(); float64(end-now) < -float64(r.took)*c.o.EarlyRefresh*math.Log(1-rand.Float64()) {
				return v, early
			}
		}
		if end-now < int64(c.o.RefreshAhead) && !c.tiered {
			return v, early
		}
		return v, present
	}
	if c.o.StaleFor > 0 && end <= now && end+int64(c.o.StaleFor) > now {
		cs.hits.Add(1)
		c.loads.stale.Add(1)
		return c.value(n), stale
	}
	cs.misses.Add(1)
	return v, absent
}

// board joins the key's flight or begins one; nil when the entry has come meanwhile.
func (c *Cache[K, V]) board(s *shard[K, V], k K, hash uint32) (f *flight[V], mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f = s.flights[k]; f != nil {
		return f, false
	}
	f = c.begin(s, k)
	// Looked up again after the flight is announced: a writer without the lock either sees the flight, or is seen here.
	if n := s.table.Load().find(k, hash); n != nil {
		ok := n.class() == plainClass
		if !ok {
			now := c.now()
			_, ok = c.peek(n, now)
			ok = ok || n.negative() && n.fresh() > now
		}
		if ok {
			s.fence(k)
			return nil, false
		}
	}
	return f, true
}

func (c *Cache[K, V]) begin(s *shard[K, V], k K) *flight[V] {
	f := &flight[V]{done: make(chan struct{})}
	if s.flights == nil {
		s.flights = map[K]*flight[V]{}
	}
	s.flights[k] = f
	s.loading.Store(int32(len(s.flights)))
	return f
}

// refresh loads in the background, unless that is going on already.
func (c *Cache[K, V]) refresh(ctx context.Context, s *shard[K, V], k K, hash uint32,
	load func(context.Context, K) (V, error)) {
	s.mu.Lock()
	if s.flights[k] != nil {
		s.mu.Unlock()
		return
	}
	f := c.begin(s, k)
	s.mu.Unlock()
	c.life.Lock()
	if c.closed {
		c.life.Unlock()
		s.mu.Lock()
		s.fence(k)
		s.mu.Unlock()
		f.err = ErrClosed
		close(f.done)
		return
	}
	c.tasks.Add(1)
	c.life.Unlock()
	go func() {
		defer c.tasks.Done()
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			select {
			case <-c.stop:
				cancel()
			case <-ended:
			}
		}()
		c.fly(ctx, f, s, k, hash, load)
	}()
}

// fly calls load and lands the result.
func (c *Cache[K, V]) fly(ctx context.Context, f *flight[V], s *shard[K, V], k K, hash uint32,
	load func(context.Context, K) (V, error)) {
	ctx, cancel := context.WithTimeout(ctx, c.o.LoadTimeout)
	defer cancel()
	if c.tiered {
		ctx = context.WithValue(ctx, limitKey{}, &f.limit)
	}
	start := c.now()
	returned := false
	defer func() {
		if !returned { // panic, or runtime.Goexit
			var zero V
			f.value, f.err = zero, fmt.Errorf("cache: loader ended without a result")
			if p := recover(); p != nil {
				f.err = fmt.Errorf("cache: loader panicked: %v", p)
			}
		}
		took := c.now() - start
		c.loads.calls.Add(1)
		c.loads.nanos.Add(took)
		c.land(f, s, k, hash, took)
		close(f.done)
	}()
	if f.value, f.err = load(ctx, k); f.err == nil {
		f.weight = c.weigh(k, f.value)
	}
	returned = true
}

// land stores the result of a load, unless the key was written since it began.
func (c *Cache[K, V]) land(f *flight[V], s *shard[K, V], k K, hash uint32, took int64) {
	missing := errors.Is(f.err, ErrNotFound)
	if f.err != nil && !missing {
		c.loads.errors.Add(1)
		f.err = fmt.Errorf("cache: load: %w", f.err)
	}
	e := entry[V]{value: f.value, weight: f.weight, took: took}
	keep := f.err == nil || missing && c.o.NegativeTTL > 0
	if missing {
		if !c.dated {
			var zero V
			e.value, f.value = zero, zero
		}
		e.negative, e.weight = true, 1
		e.expires = c.deadline(c.o.NegativeTTL)
	} else if keep {
		ttl := c.o.TTL
		if l := f.limit.ttl; l > 0 && (ttl == 0 || l < ttl) {
			ttl = l
		}
		e.expires = c.deadline(ttl)
	}
	var out removed[K, V]
	s.mu.Lock()
	switch {
	case f.fenced:
		c.loads.fenced.Add(1)
	case f.limit.skip:
	case keep:
		c.put(s, k, hash, &e, &out)
	case missing: // what the source says does not exist is not to be served as stale
		if n := s.table.Load().find(k, hash); n != nil {
			c.drop(s, n, Deleted, &out)
		}
	}
	if s.flights[k] == f {
		delete(s.flights, k)
		s.loading.Store(int32(len(s.flights)))
	}
	s.mu.Unlock()
	c.report(&out)
}

// LoadMany returns the entries of the keys, loading all that are missing with one call of load, which gets every key
// once. Keys that load does not return are not found, and missing in the result. Of keys that others are loading
// already it waits for these. An error means that the result is incomplete.
func (c *Cache[K, V]) LoadMany(ctx context.Context, keys []K,
	load func(context.Context, []K) (map[K]V, error)) (map[K]V, error) {
	type part struct {
		k    K
		s    *shard[K, V]
		hash uint32
		f    *flight[V]
	}
	result := make(map[K]V, len(keys))
	var mine, others []part
	asked := make(map[K]bool, len(keys))
	for _, k := range keys {
		if asked[k] {
			continue
		}
		asked[k] = true
		s, hash := c.locate(k)
		for {
			v, found := c.lookup(s, k, hash)
			if found == notFound {
				break
			}
			// many stale entries are loaded at once rather than one by one behind the scenes
			if found != absent && found != stale {
				result[k] = v
				break
			}
			f, first := c.board(s, k, hash)
			if f == nil {
				continue
			}
			p := part{k, s, hash, f}
			if first {
				mine = append(mine, p)
			} else {
				c.loads.joined.Add(1)
				others = append(others, p)
			}
			break
		}
	}
	if len(mine) > 0 {
		missing := make([]K, len(mine))
		for i, p := range mine {
			missing[i] = p.k
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.o.LoadTimeout)
			defer cancel()
			if c.tiered {
				limits := make(map[K]*limit, len(mine))
				for _, p := range mine {
					limits[p.k] = &p.f.limit
				}
				ctx = context.WithValue(ctx, limitKey{}, limits)
			}
			start := c.now()
			var got map[K]V
			err := errors.New("cache: loader ended without a result")
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("cache: loader panicked: %v", p)
				}
				took := c.now() - start
				c.loads.calls.Add(1)
				c.loads.nanos.Add(took)
				for _, p := range mine {
					v, ok := got[p.k]
					switch p.f.value = v; {
					case err != nil:
						p.f.err = err
					case !ok:
						p.f.err = ErrNotFound
					}
					c.land(p.f, p.s, p.k, p.hash, took)
					close(p.f.done)
				}
			}()
			loaded, lerr := load(ctx, missing)
			for _, p := range mine {
				if v, ok := loaded[p.k]; ok && lerr == nil {
					p.f.weight = c.weigh(p.k, v)
				}
			}
			got, err = loaded, lerr
		}()
	}
	var first error
	for _, p := range append(mine, others...) {
		v, err := c.await(ctx, p.f, p.s, p.k, p.hash)
		switch {
		case err == nil:
			result[p.k] = v
		case !errors.Is(err, ErrNotFound) && first == nil:
			first = err
		}
	}
	return result, first
}
