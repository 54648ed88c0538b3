package cache

import (
	"errors"
	"time"

	"github.com/tierkit/tierkit/internal/evict"
)

// Errors that a caller can act on.
var (
	// ErrNotFound is what a loader or Store returns for a key that does not exist; it is cached for
	// Options.NegativeTTL.
	ErrNotFound = errors.New("cache: not found")
	// ErrClosed: the cache was closed.
	ErrClosed = errors.New("cache: closed")
	// ErrFull: too much is pending in a write-back cache.
	ErrFull = errors.New("cache: too many pending writes")
)

// Policy chooses what a full cache gives up.
type Policy uint8

const (
	// S3TK resists scans and has the best hit ratio on the traces we measured; its hits take no lock. The default.
	S3TK = Policy(evict.S3TK)
	LRU  = Policy(evict.LRU)  // least recently used
	LFU  = Policy(evict.LFU)  // least often used, with aging
	FIFO = Policy(evict.FIFO) // first in, first out
)

func (p Policy) String() string { return evict.Kind(p).String() }

// Cause says why an entry left the cache.
type Cause uint8

const (
	Evicted Cause = iota // no room
	Expired
	Replaced // by a newer value
	Deleted  // by Delete or Clear
)

func (c Cause) String() string { return [...]string{"evicted", "expired", "replaced", "deleted"}[c&3] }

// Options configure a [Cache]. The zero value holds 10,000 entries without expiry.
type Options[K comparable, V any] struct {
	// MaxEntries bounds the number of entries. Default 10,000, or no bound when MaxWeight is set.
	MaxEntries int
	// MaxWeight bounds the summed weight instead, in the unit of Weigh, for example bytes. An entry heavier than the
	// share of one internal shard (never less than an eighth of MaxWeight) is not cached.
	MaxWeight int64
	// Weigh gives an entry's weight, at least 1. Required with MaxWeight.
	Weigh func(K, V) int64
	// TTL is how long an entry is fresh. Default 0: for ever. Entries may have their own (SetTTL).
	TTL time.Duration
	// Jitter shortens each TTL by a random part of it, 0 to 1, so that entries stored together do not expire together.
	Jitter float64
	// Idle drops an entry that was not read for so long. Default 0: never.
	Idle time.Duration
	// StaleFor is how long after its TTL an entry is still served by Load while one caller's loader refreshes it in the
	// background (stale-while-revalidate). Get never serves it.
	StaleFor time.Duration
	// StaleIfError is how long after its TTL an entry is served by Load when the loader fails.
	StaleIfError time.Duration
	// NegativeTTL is how long ErrNotFound from a loader is remembered. Default 0: not at all.
	NegativeTTL time.Duration
	// EarlyRefresh makes Load refresh a popular entry before it expires, the sooner the longer its load takes (XFetch,
	// Vattani et al. 2015). 1 is the paper's optimum; default 0: off.
	EarlyRefresh float64
	// RefreshAhead makes Load refresh an entry in the background when less than this is left of its life, so that one
	// that is in use is always fresh and nobody waits. It must be less than TTL. Default 0: off. What comes out of a
	// second tier is left to that tier.
	RefreshAhead time.Duration
	// Headroom is the part of MaxEntries or MaxWeight, 0 to 0.5, that is made free again after the bound was reached, a
	// few entries with each write. It keeps a margin for bursts of heavy entries, and costs the hits that the margin
	// would have brought. Default 0: the cache stays full.
	Headroom float64
	// LoadTimeout bounds a load, which does not end with the caller that began it. Default 30 s.
	LoadTimeout time.Duration
	// ClockError lets reads use a clock that is up to so much late, which makes a hit on an entry with a TTL cheaper;
	// such an entry may then be served so long past its end. A ticker runs meanwhile. Default 0: the exact time.
	// Minimum 1 ms.
	ClockError time.Duration
	// Policy chooses the victims. Default S3TK.
	Policy Policy
	// OnRemove is called, outside of all locks, after an entry has left.
	OnRemove func(K, V, Cause)
}

// Stats are the counters of a cache.
type Stats struct {
	Hits        int64   `metric:"hits_total,counter,Reads answered from the cache"`
	Misses      int64   `metric:"misses_total,counter,Reads not answered from the cache"`
	Loads       int64   `metric:"loads_total,counter,Calls of a loader"`
	LoadErrors  int64   `metric:"load_errors_total,counter,Calls of a loader that failed, not-found excepted"`
	LoadSeconds float64 `metric:"load_seconds_total,counter,Time spent in loaders"`
	Joined      int64   `metric:"load_joined_total,counter,Callers that waited for another caller's load"`
	Fenced      int64   `metric:"load_fenced_total,counter,Loads whose result was not stored because of a newer write"`
	StaleServed int64   `metric:"stale_served_total,counter,Entries served past their TTL by permission"`
	Evicted     int64   `metric:"evicted_total,counter,Entries removed for room"`
	Deleted     int64   `metric:"deleted_total,counter,Entries removed by Delete and Clear, and those that the source says do not exist"`
	Expired     int64   `metric:"expired_total,counter,Entries removed past their deadline"`
	Entries     int64   `metric:"entries,gauge,Entries held"`
	Weight      int64   `metric:"weight,gauge,Summed weight of the entries"`
}
