package session

import (
	"encoding/binary"
	"sync"
	"time"
)

// recent is what this server last saw of sessions, for the time when the store fails. It keeps two generations per shard: when the young one is
// full it becomes the old one, whose entries are forgotten unless they are seen again.
type recent struct {
	maxAge time.Duration
	each   int // entries of a generation
	shards [16]recentShard
}

type recentShard struct {
	mu         sync.Mutex
	young, old map[Key]seenRecord
}

type seenRecord struct {
	rec Record
	at  time.Time
}

func newRecent(maxAge time.Duration, entries int) *recent {
	r := &recent{maxAge: maxAge}
	r.each = max(1, (entries+len(r.shards)-1)/len(r.shards))
	return r
}

func (r *recent) shard(k Key) *recentShard {
	return &r.shards[binary.LittleEndian.Uint64(k[8:])%uint64(len(r.shards))]
}

// remember takes the record that the cookie with the hash k leads to.
func (r *recent) remember(k Key, rec *Record, now time.Time) {
	if r == nil {
		return
	}
	sh := r.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.young == nil || len(sh.young) >= r.each {
		if _, again := sh.young[k]; !again {
			sh.old, sh.young = sh.young, make(map[Key]seenRecord, r.each/4)
		}
	}
	sh.young[k] = seenRecord{*rec, now}
}

func (r *recent) forget(k Key) {
	if r == nil {
		return
	}
	sh := r.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.young, k)
	delete(sh.old, k)
}

// forgetWhere looks at all: for revocations, which are rare.
func (r *recent) forgetWhere(f func(*Record) bool) {
	if r == nil {
		return
	}
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for _, m := range []map[Key]seenRecord{sh.young, sh.old} {
			for k, e := range m {
				if f(&e.rec) {
					delete(m, k)
				}
			}
		}
		sh.mu.Unlock()
	}
}

// recall returns a record that is neither too old nor past its deadline.
func (r *recent) recall(k Key, now time.Time) (Record, bool) {
	if r == nil {
		return Record{}, false
	}
	sh := r.shard(k)
	sh.mu.Lock()
	e, ok := sh.young[k]
	if !ok {
		e, ok = sh.old[k]
	}
	sh.mu.Unlock()
	return e.rec, ok && now.Sub(e.at) < r.maxAge && now.Before(e.rec.Deadline())
}
