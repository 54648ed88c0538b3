package policy

import (
	"math"
	"math/bits"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/lb"
)

// SourceHash sends a key, by default the client's address, to the same backend, by weight, while the set of backends
// stays as it is. When it changes nearly all keys move; the policies below move few.
func SourceHash() lb.Policy { return sourceHash{} }

type sourceHash struct{}

func (sourceHash) Picker(bs []*lb.Backend) lb.Picker { return hashed{newDrawn(bs, lottery.Source{})} }

type hashed struct{ drawn }

func (h hashed) Pick(k lb.Key) *lb.Backend { return h.bs[h.At(placement.HashUint64(hashOf(k)))] }

// Maglev sends a key to the same backend by the lookup table of Eisenbud et al., "Maglev" (NSDI 2016, section 3.4): the
// most even spread and the cheapest pick, at slightly more movement than ConsistentHash when the set changes. Weights
// work as in Envoy: a backend takes its turn to claim an entry as often as its weight demands. The table has 65,537
// entries, above 655 backends ten times as many, and is built anew with each change.
func Maglev() lb.Policy { return maglev{} }

type maglev struct{}

func (maglev) Picker(bs []*lb.Backend) lb.Picker {
	size := uint64(65537) // prime, at least 100 times the backends
	if len(bs) > 655 {
		size = 655373
	}
	heaviest := 0.0
	for _, b := range bs {
		heaviest = max(heaviest, b.Weight())
	}
	table := make([]*lb.Backend, size)
	type walk struct {
		at, skip uint64
		target   float64
	}
	ws := make([]walk, len(bs))
	for i, b := range bs {
		hash := placement.HashString(b.ID())
		ws[i] = walk{at: hash % size, skip: placement.HashUint64(hash)%(size-1) + 1}
	}
	for filled, turn := uint64(0), 1.0; filled < size; turn++ {
		for i := range ws {
			w := &ws[i]
			if turn*bs[i].Weight() < w.target {
				continue
			}
			w.target += heaviest
			for table[w.at] != nil {
				w.at = (w.at + w.skip) % size
			}
			table[w.at] = bs[i]
			if filled++; filled == size {
				break
			}
		}
	}
	return maglevTable(table)
}

type maglevTable []*lb.Backend

func (t maglevTable) Pick(k lb.Key) *lb.Backend {
	i, _ := bits.Mul64(placement.HashUint64(hashOf(k)), uint64(len(t)))
	return t[i]
}

// Rendezvous sends a key to the backend with the highest score for it (Thaler and Ravishankar, "Using Name-Based
// Mappings to Increase Hit Rates", 1998; weights by Schindelhauer and Schomaker 2005). No policy moves fewer keys; a
// pick looks at every backend.
func Rendezvous() lb.Policy { return rendezvous{} }

type rendezvous struct{}

func (rendezvous) Picker(bs []*lb.Backend) lb.Picker {
	h := highest{bs, make([]uint64, len(bs))}
	for i, b := range bs {
		h.hashes[i] = placement.HashString(b.ID())
	}
	return h
}

type highest struct {
	bs     []*lb.Backend
	hashes []uint64 // of their IDs
}

func (h highest) Pick(k lb.Key) *lb.Backend {
	key := hashOf(k)
	var best *lb.Backend
	top := math.Inf(-1)
	for i, b := range h.bs {
		u := (float64(placement.HashUint64(key^h.hashes[i])>>11) + 0.5) / (1 << 53)
		if s := b.Weight() / -math.Log(u); s > top {
			best, top = b, s
		}
	}
	return best
}
