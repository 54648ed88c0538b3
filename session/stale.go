package session

import (
	"encoding/binary"
	"sync"
	"time"
)

// recent is what this server last saw of sessions, for the time when the store fails. It keeps two generations per
// shard: when the young one is full it becomes the old one, whose entries are forgotten unless they are seen again.
type recent struct {
	maxAge time.Duration
	each   int // entries of a generation
	shards [16]recentShard
}

type recentShard struct {
	mu         sync.Mutex
	young, old map[Key]seenRecord
	ended      uint64 // times that sessions were forgotten because they ended
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

// mark is asked for before the store is, and given to remember: what the store said before a session ended is not
// remembered after that.
func (r *recent) mark(k Key) uint64 {
	if r == nil {
		return 0
	}
	sh := r.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.ended
}

// remember takes the record that the cookie with the hash k leads to.
func (r *recent) remember(k Key, rec *Record, now time.Time, mark uint64) {
	if r == nil {
		return
	}
	sh := r.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.ended != mark {
		return // perhaps this one: the next load will do
	}
	if sh.young == nil || len(sh.young) >= r.each {
		if _, again := sh.young[k]; !again {
			sh.old, sh.young = sh.young, make(map[Key]seenRecord, r.each/4)
		}
	}
	sh.young[k] = seenRecord{*rec, now}
}

// forget is called when this server has ended the session.
func (r *recent) forget(k Key) { r.remove(k, 1) }

// missing is called when the store has no such session. Anybody can bring that about, with an invented cookie.
func (r *recent) missing(k Key) { r.remove(k, 0) }

func (r *recent) remove(k Key, ended uint64) {
	if r == nil {
		return
	}
	sh := r.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.ended += ended
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
		sh.ended++
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
