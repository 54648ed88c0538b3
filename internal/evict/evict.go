// Package evict decides which entry a full cache gives up. It holds policy and nothing else: no values, no locks, no
// clock.
//
// The caller owns the entries (nodes) and a lock. It calls every method of a [Policy] under that lock, except
// [State.Visit], which a hit calls without any lock. What a policy must remember about an entry stands in a [State]
// inside the caller's node, so that an entry costs one slice slot and four bytes here, and a fingerprint after it has
// left.
//
//	p.Add(n)
//	for p.Weight() > max {
//		victim, _ := p.Evict()
//		... drop it from the index ...
//	}
package evict

import (
	"fmt"
	"sync/atomic"
)

// Kind names a policy. The zero value is S3TK.
type Kind uint8

const (
	// S3TK is the default: a FIFO window, a CLOCK main queue with two-bit counters and a ghost list, after S3-FIFO
	// (Yang et al., SOSP 2023) with three changes: the window is as large as its ghosts say, entries that leave the
	// window fill an unfilled main queue unconditionally, and main decrements on passing instead of reinserting. Scans
	// pass through the window only.
	S3TK Kind = iota
	// LRU evicts the entry whose last use is furthest back. A hit must take the caller's lock.
	LRU
	// LFU evicts the least often used entry, with dynamic aging (LFU-DA, Arlitt et al. 2000), so that what was popular
	// once does not stay forever. A hit must take the caller's lock.
	LFU
	// FIFO evicts in order of arrival. Hits cost nothing.
	FIFO
)

var kindNames = [...]string{"s3tk", "lru", "lfu", "fifo"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("evict.Kind(%d)", k)
}

// Valid reports whether k names a policy of this package.
func (k Kind) Valid() bool { return int(k) < len(kindNames) }

// TouchNeedsLock reports whether a hit must call [Policy.Touch] under the caller's lock (LRU, LFU). For the others a
// hit calls [State.Visit] without it.
func (k Kind) TouchNeedsLock() bool { return k == LRU || k == LFU }

// State is the policy's word inside the caller's node. Its zero value is that of a node not yet added.
//
// Bits 0 and 1 count visits, bit 2 says "in the main queue", the rest is the position in that queue.
type State struct{ word atomic.Uint32 }

const (
	visitMask = 3
	inMain    = 1 << 2
	posShift  = 3
	maxPos    = 1<<(32-posShift) - 1
)

// Visit records a hit. It is safe at any time and without a lock; a node visited often is not written to at all, so
// that the hottest entries do not bounce between processors. A visit that races with another may be lost.
func (s *State) Visit() {
	if w := s.word.Load(); w&visitMask < visitMask {
		s.count(w)
	}
}

// count stands apart so that the rest of Visit is small enough to be inlined.
//
//go:noinline
func (s *State) count(w uint32) { s.word.CompareAndSwap(w, w+1) }

func (s *State) visits() uint32        { return s.word.Load() & visitMask }
func (s *State) pos() int              { return int(s.word.Load() >> posShift) }
func (s *State) main() bool            { return s.word.Load()&inMain != 0 }
func (s *State) place(w uint32)        { s.word.Store(w) }
func (s *State) unvisit()              { s.word.Store(s.word.Load() - 1) }
func word(pos int, bits uint32) uint32 { return uint32(pos)<<posShift | bits }

// Node is the caller's entry, usually a pointer. Weight (in any unit, at least 1) and Fingerprint must not change while
// the policy holds the node: see [Policy.Replace].
type Node interface {
	comparable
	// EvictState returns the policy's word inside the node.
	EvictState() *State
	// Fingerprint is a well mixed 32-bit hash of the key, by which an entry is known again after it was evicted.
	Fingerprint() uint32
	// Weight is what the entry counts against the capacity: 1, or bytes.
	Weight() int64
}

// Policy orders nodes for eviction. All methods need the caller's lock.
type Policy[N Node] interface {
	// Add takes in a node that the policy does not hold.
	Add(n N)
	// Touch records a hit (LRU, LFU under the lock; for the others it equals n.EvictState().Visit()).
	Touch(n N)
	// Evict removes the next victim and returns it; false when the policy is empty. It may be the node added last.
	Evict() (N, bool)
	// Remove takes out a node that the caller deletes or that expired. The node must be held.
	Remove(n N)
	// Replace puts a node in the place of another, with its history: an update of the value or of the weight.
	Replace(old, new N)
	// Len is the number of nodes held, Weight their summed weight.
	Len() int
	Weight() int64
	// SetCapacity tells the weight that the caller keeps the policy under; S3TK sizes its window by it.
	SetCapacity(weight int64)
}

// New returns an empty policy for a cache that holds at most capacity weight.
func New[N Node](k Kind, capacity int64) Policy[N] {
	switch k {
	case LRU:
		return newLRU[N]()
	case LFU:
		return newLFU[N]()
	case FIFO:
		return newFIFO[N]()
	default:
		return newS3TK[N](capacity)
	}
}
