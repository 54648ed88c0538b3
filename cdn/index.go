package cdn

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// index finds objects by key. Lookups take one of its read locks for a map access.
type index struct {
	shards [64]shard
}

type shard struct {
	mu   sync.RWMutex // guards what follows
	m    map[string]*entry
	keys keyList // of m, for purges by prefix
}

// entry is all that is known about one key: its variants, the fetches that run, and that it can't be cached.
type entry struct {
	key      string
	variants atomic.Pointer[[]*object] // the newest first; replaced as a whole
	passing  atomic.Int64              // hit-for-miss until this time (Unix nanoseconds)

	mu      sync.Mutex         // guards what follows and changes of variants
	vary    []string           // of the newest variant: tells apart the fetches below
	flights map[string]*flight // by selectors
	dead    bool               // taken out of the index: look again
	part    *object            // the beginning of an answer that broke off: the next fetch asks for the rest
}

func (x *index) init() {
	for i := range x.shards {
		x.shards[i].m = map[string]*entry{}
	}
}

func (x *index) shard(hash uint64) *shard { return &x.shards[hash>>58] }

// find returns the entry of a key or nil. key is not kept.
func (x *index) find(hash uint64, key []byte) *entry {
	s := x.shard(hash)
	s.mu.RLock()
	e := s.m[string(key)]
	s.mu.RUnlock()
	return e
}

// lock returns the entry of a key, made if need be, with its lock held.
func (x *index) lock(hash uint64, key string) *entry {
	s := x.shard(hash)
	for {
		s.mu.Lock()
		e := s.m[key]
		if e == nil {
			e = &entry{key: key}
			s.m[key] = e
			s.keys.add(key)
		}
		s.mu.Unlock()
		e.mu.Lock()
		if !e.dead {
			return e
		}
		e.mu.Unlock()
	}
}

// unlock releases an entry and takes it out of the index when it says nothing any more.
func (x *index) unlock(e *entry, hash uint64, now time.Time) {
	if vs := e.variants.Load(); (vs == nil || len(*vs) == 0) && e.part == nil && len(e.flights) == 0 &&
		e.passing.Load() <= now.UnixNano() {
		s := x.shard(hash)
		s.mu.Lock()
		if s.m[e.key] == e {
			delete(s.m, e.key)
			s.keys.remove(e.key)
		}
		s.mu.Unlock()
		e.dead = true
	}
	e.mu.Unlock()
}

// prefixed calls f for the entries of the moment whose keys begin with prefix; it looks at no others.
func (x *index) prefixed(prefix string, f func(*entry)) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		keys := s.keys.prefixed(prefix)
		es := make([]*entry, 0, len(keys))
		for _, k := range keys {
			es = append(es, s.m[k])
		}
		s.mu.RUnlock()
		for _, e := range es {
			f(e)
		}
	}
}

func (e *entry) all() []*object {
	if vs := e.variants.Load(); vs != nil {
		return *vs
	}
	return nil
}

// everything is all variants and the part, for purges.
func (e *entry) everything() []*object {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.part == nil {
		return e.all()
	}
	return append(slices.Clone(e.all()), e.part)
}

// publish puts an object before the others and returns those that it replaces: the same variant, and what is beyond the
// cap. e.mu is held.
func (e *entry) publish(o *object, most int) (replaced []*object) {
	next := append(make([]*object, 0, len(e.all())+1), o)
	for _, old := range e.all() {
		if slices.Equal(old.vary, o.vary) && old.selectors == o.selectors || len(next) >= most {
			replaced = append(replaced, old)
		} else {
			next = append(next, old)
		}
	}
	e.variants.Store(&next)
	e.vary = o.vary
	return replaced
}

// drop takes an object out. e.mu is held.
func (e *entry) drop(o *object) bool {
	old := e.all()
	i := slices.Index(old, o)
	if i < 0 {
		return false
	}
	next := slices.Concat(old[:i], old[i+1:])
	e.variants.Store(&next)
	return true
}

// tagIndex finds objects by surrogate key. Objects without keys are not in it.
type tagIndex struct {
	mu sync.Mutex // guards m
	m  map[string]map[*object]struct{}
}

func (t *tagIndex) add(o *object) {
	if len(o.tags) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]map[*object]struct{}{}
	}
	for _, tag := range o.tags {
		if t.m[tag] == nil {
			t.m[tag] = map[*object]struct{}{}
		}
		t.m[tag][o] = struct{}{}
	}
}

func (t *tagIndex) remove(o *object) {
	if len(o.tags) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tag := range o.tags {
		if set := t.m[tag]; set != nil {
			if delete(set, o); len(set) == 0 {
				delete(t.m, tag)
			}
		}
	}
}

func (t *tagIndex) of(tag string) (out []*object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := range t.m[tag] {
		out = append(out, o)
	}
	return out
}
