package policy

import (
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/lb"
)

// LeastConnections takes a backend with the fewest requests in flight, ties at random. It is exact: an index that
// follows every request knows the least loaded, so a pick reads one word for each 16 backends. Backends that are
// [lb.Backend.Failing] come last.
func LeastConnections() lb.Policy { return leastConnections{} }

// WeightedLeastConnections takes a backend with the fewest requests in flight per weight, the request to come included.
// An idle backend is always preferred, and of several idle ones each is taken in proportion to its weight. It is as
// exact as LeastConnections.
func WeightedLeastConnections() lb.Policy { return leastConnections{weighted: true} }

type leastConnections struct {
	weighted bool
	src      lottery.Source
}

// WithSource returns the policy with another source of random numbers, for simulations.
func (p leastConnections) WithSource(src lottery.Source) lb.Policy {
	return leastConnections{p.weighted, src}
}

func (p leastConnections) Picker(bs []*lb.Backend) lb.Picker {
	groups := (len(bs) + groupSize - 1) / groupSize
	l := &leastLoaded{src: p.src, n: len(bs), places: make([]uint16, len(bs)),
		bs:      make([]*lb.Backend, groups*groupSize),
		inverse: make([]float32, groups*groupSize), leaf: make([]atomic.Uint32, groups*groupSize),
		group: make([]atomic.Uint64, groups)}
	for g := range l.group {
		l.group[g].Store(nobody << 32)
	}
	for i := range l.leaf {
		l.leaf[i].Store(uint32(nobody))
	}
	equal := true
	for i, b := range bs {
		at := i%groups*groupSize + i/groups // groups of like size
		l.places[i], l.bs[at], l.inverse[at] = uint16(at), b, 1
		if p.weighted {
			l.inverse[at] = float32(1 / b.Weight())
			equal = equal && b.Weight() == bs[0].Weight()
		}
	}
	if !equal {
		l.ties = lottery.New(weights(bs), p.src)
	}
	for i, b := range bs {
		b.Follow(func() { l.loadChanged(i) })
		l.loadChanged(i)
	}
	return l
}

// leastLoaded is an index of two levels. A leaf is a backend's load as a number that sorts (the bits of a float32); a
// group stands for up to 16 leaves by one word: the least load among them, and which of them have it.
//
//	group word: load 32 bits | members with that load 16 bits | version 16 bits
//
// There are no locks. The goroutine that changed a backend's load brings its leaf up to date, then its group. An update
// of a group reads the leaf after the word, and fails if the word has changed since, so that the last update of a leaf
// is never lost. Two picks at the same instant may take the same backend, as with any balancer of several threads.
type leastLoaded struct {
	n       int
	places  []uint16      // of the i-th backend, in what follows
	bs      []*lb.Backend // nil where a group has fewer than 16
	inverse []float32     // 1/weight
	leaf    []atomic.Uint32
	src     lottery.Source
	ties    *lottery.Lottery // weights differ: ties are drawn by weight

	_     [64]byte
	group []atomic.Uint64
}

const (
	groupSize        = 16
	membersOf        = uint64(0xffff) << 16
	nobody    uint64 = math.MaxUint32 // above every load
)

// failing is more load than there is: a backend whose last answer was a failure comes after all others.
const failing = 1 << 60

// load sorts as the load does. Nothing is less than idle; a backend at its limit comes last.
func (l *leastLoaded) load(at int) uint32 {
	b := l.bs[at]
	n := b.InFlight()
	if b.Full() {
		return math.Float32bits(float32(math.Inf(1)))
	}
	var load float32
	if n > 0 {
		load = float32(n+1) * l.inverse[at]
	}
	if b.Failing() {
		load += failing
	}
	return math.Float32bits(load)
}

func (l *leastLoaded) loadChanged(i int) {
	at := int(l.places[i])
	for {
		key := l.load(at)
		l.leaf[at].Store(key)
		if l.load(at) == key {
			break // else the next change may have stored its leaf before this one
		}
	}
	g, bit := at/groupSize, uint64(1)<<(16+at%groupSize)
	for {
		w := l.group[g].Load()
		key, low, members := uint64(l.leaf[at].Load()), w>>32, w&membersOf
		switch {
		case key < low:
			low, members = key, bit
		case key == low:
			members |= bit
		case members&^bit != 0:
			members &^= bit
		default: // the last of the lowest rose
			low, members = l.scan(g)
		}
		// The version changes even where nothing else does: a scan that began before must not succeed with the old
		// leaf.
		if l.group[g].CompareAndSwap(w, low<<32|members|(w+1)&0xffff) {
			return
		}
	}
}

func (l *leastLoaded) scan(g int) (low, members uint64) {
	low = nobody
	leaves := l.leaf[g*groupSize:][:groupSize]
	for i := range leaves {
		switch key := uint64(leaves[i].Load()); {
		case key < low:
			low, members = key, 1<<(16+i)
		case key == low && low != nobody:
			members |= 1 << (16 + i)
		}
	}
	return low, members
}

// Pick takes the first of the least loaded from a random place on. The place is drawn by weight, so that idle backends
// are taken in proportion to theirs.
func (l *leastLoaded) Pick(lb.Key) *lb.Backend {
	var i int
	if l.ties != nil {
		i = l.ties.Next()
	} else {
		i = l.src.Below(l.n)
	}
	at := int(l.places[i])
	from := at % groupSize
	for range 4 { // again only when every group of the least changed meanwhile
		low := nobody
		for g := range l.group {
			low = min(low, l.group[g].Load()>>32)
		}
		g := at / groupSize
		for range l.group {
			if w := l.group[g].Load(); w>>32 == low {
				members := uint16(w >> 16)
				next := from + bits.TrailingZeros16(bits.RotateLeft16(members, -from))
				return l.bs[g*groupSize+next%groupSize]
			}
			if g++; g == len(l.group) {
				g = 0
			}
		}
	}
	return l.bs[at]
}
