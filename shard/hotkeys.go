package shard

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sketch finds the most used keys: HeavyKeeper (Gong et al., USENIX ATC 2018), two rows of fingerprints with counters
// that decay when another key hits them, and a short list of the names with the highest counts. Contended additions are
// dropped: that is sampling too.
type sketch struct {
	mu    sync.Mutex
	rows  [2][]cell
	mask  uint64
	total uint64
	top   []hotEntry
	since time.Time
	drops atomic.Uint64
}

type cell struct{ fp, n uint32 }

type hotEntry struct {
	key   Key
	hash  uint64
	count uint32
}

const (
	hotTop    = 64
	hotSample = 8
	// hotWindow halves all counts, so that yesterday's celebrity is forgotten.
	hotWindow = 10 * time.Minute
)

// decay[n] is the probability, in 1/2^32, that a counter of n loses one to a stranger: 1.08^-n.
var decay = func() (t [256]uint32) {
	p := 1.0
	for i := range t {
		t[i] = uint32(p * (1<<32 - 1))
		p /= 1.08
	}
	return t
}()

func newSketch(counters int) *sketch {
	n := 64
	for n*2 < counters {
		n *= 2
	}
	return &sketch{rows: [2][]cell{make([]cell, n), make([]cell, n)}, mask: uint64(n - 1), since: time.Now()}
}

// add counts one in hotSample operations. A key that takes a hundredth of a thousand operations a second is found
// within seconds all the same.
func (s *sketch) add(k Key) {
	if rand.Uint32()%hotSample == 0 {
		s.count(k)
	}
}

func (s *sketch) count(k Key) {
	if !s.mu.TryLock() {
		s.drops.Add(1)
		return
	}
	defer s.mu.Unlock()
	h := k.hash()
	s.total++
	if s.total&0x1fff == 0 && time.Since(s.since) > hotWindow {
		s.halve()
	}
	fp := uint32(h>>32) | 1
	var best uint32
	for r := range s.rows {
		c := &s.rows[r][(h>>(r*20))&s.mask]
		switch {
		case c.fp == fp:
			c.n++
			best = max(best, c.n)
		case c.n == 0:
			*c = cell{fp, 1}
			best = max(best, 1)
		case rand.Uint32() < decay[min(c.n, 255)]:
			if c.n--; c.n == 0 {
				*c = cell{fp, 1}
				best = max(best, 1)
			}
		}
	}
	if best > 8 {
		s.remember(k, h, best)
	}
}

// remember keeps the names of the heaviest keys, the lightest one last.
func (s *sketch) remember(k Key, h uint64, n uint32) {
	if len(s.top) == hotTop && n <= s.top[hotTop-1].count {
		return
	}
	i := slices.IndexFunc(s.top, func(e hotEntry) bool { return e.hash == h })
	switch {
	case i >= 0:
		s.top[i].count = n
	case len(s.top) < hotTop:
		s.top = append(s.top, hotEntry{k, h, n})
		i = len(s.top) - 1
	default:
		s.top[hotTop-1] = hotEntry{k, h, n}
		i = hotTop - 1
	}
	for ; i > 0 && s.top[i-1].count < s.top[i].count; i-- {
		s.top[i-1], s.top[i] = s.top[i], s.top[i-1]
	}
}

func (s *sketch) halve() {
	for r := range s.rows {
		for i := range s.rows[r] {
			s.rows[r][i].n /= 2
		}
	}
	for i := range s.top {
		s.top[i].count /= 2
	}
	s.total /= 2
	s.since = time.Now()
}

// HotKey is a key that takes a large part of its shard's operations.
type HotKey struct {
	Key   Key
	Shard ID
	Slot  Slot
	// Share of the shard's counted operations, 0 to 1.
	Share float64
	// Count of its operations, estimated, halved every ten minutes.
	Count uint64
}

// HotKeys returns the n most used keys over all shards, of about the last ten minutes, by what this process routed. It
// returns nil if Options.HotKeys switched the count off.
func (c *Cluster) HotKeys(n int) []HotKey {
	v := c.view.Load()
	if c.opts.HotKeys < 0 {
		return nil
	}
	out := []HotKey{}
	for _, sh := range v.dbs {
		if sh.hot == nil {
			continue
		}
		sh.hot.mu.Lock()
		for _, e := range sh.hot.top {
			out = append(out, HotKey{Key: e.key, Shard: sh.ID, Slot: v.SlotOf(e.key),
				Count: hotSample * uint64(e.count), Share: float64(e.count) / float64(max(sh.hot.total, 1))})
		}
		sh.hot.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b HotKey) int { return cmp.Compare(b.Count, a.Count) })
	return out[:max(min(n, len(out)), 0)]
}
