package session

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"
)

// Memory is a store in the process: for one server, and for tests. It is sharded, and swept a few records at a time by
// its own operations, so that it needs no goroutine and no Close, and no request waits for a sweep.
type Memory struct {
	shards [memoryShards]memoryShard
	users  [memoryShards]userShard
	seed   maphash.Seed
}

const (
	memoryShards = 256
	sweepPerOp   = 2
	// maxHops bounds how many grace keys are followed: one leads to the record, and more appear only when it is rotated
	// under our eyes.
	maxHops = 8
)

type memoryShard struct {
	mu      sync.RWMutex
	records map[Key]*stored
	due     dueHeap
	_       [64]byte
}

type userShard struct {
	mu   sync.Mutex
	keys map[string]map[Key]struct{}
}

// stored is a Record with its times in Unix nanoseconds, or a grace key: then only alias and until count.
type stored struct {
	version                uint64
	created, seen, expires int64
	idle                   int64
	user                   string
	data                   []byte
	alias                  *Key
	until                  int64
	grace                  *Key // the old key that leads here
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	m := &Memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].records = map[Key]*stored{}
		m.users[i].keys = map[string]map[Key]struct{}{}
	}
	return m
}

// shard goes by the key's own bits: it is a hash.
func (m *Memory) shard(k Key) *memoryShard {
	return &m.shards[binary.LittleEndian.Uint64(k[:])%memoryShards]
}

func (m *Memory) userShard(user string) *userShard {
	return &m.users[maphash.String(m.seed, user)%memoryShards]
}

func (s *stored) deadline() int64 {
	if s.alias != nil {
		return s.until
	}
	if s.idle > 0 && s.idle < s.expires-s.seen {
		return s.seen + s.idle
	}
	return s.expires
}

func (s *stored) record(k Key) Record {
	return Record{Version: s.version, User: s.user, Created: time.Unix(0, s.created), Seen: time.Unix(0, s.seen),
		Expires: time.Unix(0, s.expires), Idle: time.Duration(s.idle), Key: k, Data: s.data}
}

func (s *stored) take(r *Record) {
	s.user, s.created, s.seen, s.expires = r.User, r.Created.UnixNano(), r.Seen.UnixNano(), r.Expires.UnixNano()
	if r.Expires.Unix() >= math.MaxInt64/int64(time.Second) { // after the year 2262
		s.expires = math.MaxInt64
	}
	s.idle, s.data = int64(r.Idle), slices.Clone(r.Data)
}

// find returns the live record and its key, following a grace key; no lock is held when it returns.
func (m *Memory) find(k Key, now int64) (Key, bool) {
	for range maxHops {
		sh := m.shard(k)
		sh.mu.RLock()
		s := sh.records[k]
		if s == nil || s.deadline() <= now {
			sh.mu.RUnlock()
			return k, false
		}
		alias := s.alias
		sh.mu.RUnlock()
		if alias == nil {
			return k, true
		}
		k = *alias
	}
	return k, false
}

func (m *Memory) Load(_ context.Context, k Key, now time.Time) (Record, error) {
	at := now.UnixNano()
	for range maxHops {
		sh := m.shard(k)
		sh.mu.RLock()
		s := sh.records[k]
		if s == nil || s.deadline() <= at {
			sh.mu.RUnlock()
			return Record{}, ErrNotFound
		}
		if s.alias != nil {
			k = *s.alias
			sh.mu.RUnlock()
			continue
		}
		r := s.record(k)
		sh.mu.RUnlock()
		if r.Idle == 0 || at-r.Seen.UnixNano() < int64(r.Idle)/10 {
			return r, nil
		}
		sh.mu.Lock()
		s = sh.records[k]
		if s != nil && s.alias == nil && s.deadline() > at { // and not ended or moved in between
			s.seen = max(s.seen, at)
			r = s.record(k)
			m.sweep(sh, at)
			sh.mu.Unlock()
			return r, nil
		}
		sh.mu.Unlock()
	}
	return Record{}, ErrNotFound
}

func (m *Memory) Create(_ context.Context, k Key, r Record) error {
	sh := m.shard(k)
	s := &stored{version: 1}
	s.take(&r)
	sh.mu.Lock()
	if old := sh.records[k]; old != nil && old.deadline() > r.Seen.UnixNano() {
		sh.mu.Unlock()
		return ErrExists
	}
	sh.records[k] = s
	m.index(r.User, k, true)
	sh.due.push(due{s.deadline(), k})
	m.sweep(sh, r.Seen.UnixNano())
	sh.mu.Unlock()
	return nil
}

func (m *Memory) Update(_ context.Context, k Key, r Record, now time.Time) error {
	k, ok := m.find(k, now.UnixNano())
	if !ok {
		return ErrNotFound
	}
	sh := m.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.records[k]
	switch {
	case s == nil || s.deadline() <= now.UnixNano():
		return ErrNotFound
	case s.alias != nil: // rotated since
		return ErrConflict
	case s.version != r.Version:
		return ErrConflict
	}
	r.User = s.user
	r.Seen = maxTime(r.Seen, time.Unix(0, s.seen))
	s.take(&r)
	s.version++
	m.sweep(sh, now.UnixNano())
	return nil
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (m *Memory) Rotate(_ context.Context, k, next Key, r Record, now time.Time, grace time.Duration) error {
	k, ok := m.find(k, now.UnixNano())
	if !ok {
		return ErrNotFound
	}
	a, b := m.shard(k), m.shard(next)
	// Two shards are locked in the order of their addresses in the array.
	if binary.LittleEndian.Uint64(k[:])%memoryShards <= binary.LittleEndian.Uint64(next[:])%memoryShards {
		a.mu.Lock()
		if a != b {
			b.mu.Lock()
		}
	} else {
		b.mu.Lock()
		a.mu.Lock()
	}
	s := a.records[k]
	var err error
	var old *Key
	switch {
	case s == nil || s.deadline() <= now.UnixNano():
		err = ErrNotFound
	case s.alias != nil: // rotated since
		err = ErrConflict
	case s.version != r.Version:
		err = ErrConflict
	case b.records[next] != nil:
		err = ErrExists
	default:
		old = s.grace
		// In this order, and before a Delete can follow the record: whoever lists the user's keys finds the old or the
		// new one.
		m.index(r.User, next, true)
		m.index(s.user, k, false)
		n := &stored{version: s.version + 1}
		n.take(&r)
		b.records[next] = n
		b.due.push(due{n.deadline(), next})
		delete(a.records, k)
		if grace > 0 {
			n.grace = &k
			a.records[k] = &stored{alias: &next, until: now.Add(grace).UnixNano()}
			a.due.push(due{now.Add(grace).UnixNano(), k})
		}
	}
	a.mu.Unlock()
	if a != b {
		b.mu.Unlock()
	}
	if err != nil {
		return err
	}
	if old != nil {
		m.drop(*old)
	}
	return nil
}

func (m *Memory) Delete(_ context.Context, k Key) error {
	for range maxHops {
		s := m.drop(k)
		if s == nil {
			return nil
		}
		if s.alias == nil {
			if s.grace != nil {
				m.drop(*s.grace)
			}
			return nil
		}
		k = *s.alias
	}
	return nil
}

func (m *Memory) drop(k Key) *stored {
	sh := m.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.records[k]
	delete(sh.records, k)
	if s != nil && s.alias == nil {
		m.index(s.user, k, false)
	}
	return s
}

// sweep removes a few expired records; the shard is locked.
func (m *Memory) sweep(sh *memoryShard, now int64) {
	for range sweepPerOp {
		if len(sh.due) == 0 || sh.due[0].at > now {
			return
		}
		d := sh.due.pop()
		s := sh.records[d.key]
		if s == nil {
			continue
		}
		if t := s.deadline(); t > now {
			sh.due.push(due{t, d.key})
			continue
		}
		delete(sh.records, d.key)
		if s.alias == nil {
			m.index(s.user, d.key, false)
		}
	}
}

func (m *Memory) index(user string, k Key, in bool) {
	if user == "" {
		return
	}
	u := m.userShard(user)
	u.mu.Lock()
	defer u.mu.Unlock()
	set := u.keys[user]
	switch {
	case in && set == nil:
		u.keys[user] = map[Key]struct{}{k: {}}
	case in:
		set[k] = struct{}{}
	default:
		delete(set, k)
		if len(set) == 0 {
			delete(u.keys, user)
		}
	}
}

func (m *Memory) userKeys(user string) []Key {
	u := m.userShard(user)
	u.mu.Lock()
	defer u.mu.Unlock()
	ks := make([]Key, 0, len(u.keys[user]))
	for k := range u.keys[user] {
		ks = append(ks, k)
	}
	return ks
}

// ListUser implements [UserIndex].
func (m *Memory) ListUser(_ context.Context, user string, now time.Time) ([]Listed, error) {
	var ls []Listed
	for _, k := range m.userKeys(user) {
		sh := m.shard(k)
		sh.mu.RLock()
		if s := sh.records[k]; s != nil && s.deadline() > now.UnixNano() {
			ls = append(ls, Listed{k, s.record(k)})
		}
		sh.mu.RUnlock()
	}
	slices.SortFunc(ls, func(a, b Listed) int { return b.Record.Created.Compare(a.Record.Created) })
	return ls, nil
}

// DeleteUser implements [UserIndex].
func (m *Memory) DeleteUser(ctx context.Context, user string, keep Key) (int, error) {
	n := 0
	for _, k := range m.userKeys(user) {
		if k != keep {
			_ = m.Delete(ctx, k)
			n++
		}
	}
	return n, nil
}

// Len is the number of records and grace keys, expired ones that are not yet swept included.
func (m *Memory) Len() int {
	n := 0
	for i := range m.shards {
		m.shards[i].mu.RLock()
		n += len(m.shards[i].records)
		m.shards[i].mu.RUnlock()
	}
	return n
}
