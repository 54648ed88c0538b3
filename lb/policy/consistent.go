package policy

import (
	"sync"
	"sync/atomic"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/lb"
)

// ConsistentHash sends a key to the same backend, moves few keys when the set changes, and passes a key on when its
// backend holds more than bound times its share of the load (Mirrokni et al., "Consistent Hashing with Bounded Loads",
// 2018). Where it goes then is a jump that the key alone decides, the same for all requests of the key (Chen et al.,
// "Revisiting Consistent Hashing with Bounded Loads", 2021): neighbors of a hot backend do not get its surplus alone.
// bound 0 means 1.25; negative: no bound. All balancers with the same endpoints agree, in whatever order they learned
// of them.
func ConsistentHash(bound float64) lb.Policy {
	if bound == 0 {
		bound = 1.25
	}
	return &consistentHash{bound: max(bound, 0)}
}

type consistentHash struct {
	bound float64
	mu    sync.Mutex       // guards last
	last  *placement.Table // the next table is derived from it, at the cost of what changed
}

func (c *consistentHash) Picker(bs []*lb.Backend) lb.Picker {
	nodes := make([]placement.Node, len(bs))
	byID := make(map[string]*lb.Backend, len(bs))
	for i, b := range bs {
		nodes[i] = placement.Node{ID: b.ID(), Weight: b.Weight()}
		byID[b.ID()] = b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slots := 1024 // at least 64 per backend: the shares differ by little
	for slots < 64*len(bs) && slots < 1<<16 {
		slots *= 2
	}
	var t *placement.Table
	var err error
	if c.last != nil && c.last.Slots() == slots {
		t, err = c.last.With(nodes)
	} else {
		t, err = placement.Derive(slots, nodes)
	}
	// not with checked endpoints; then keys are not kept together, but requests are served
	if err != nil || t.Owner(0) < 0 {
		return newDrawn(bs, lottery.Source{})
	}
	c.last = t
	p := &ring{slots: slots, owners: make([]uint16, slots)}
	weight := 0.0
	for _, n := range t.Nodes() {
		p.bs = append(p.bs, byID[n.ID])
		weight += n.Weight
	}
	for s := range p.owners {
		p.owners[s] = uint16(t.Owner(s))
	}
	if c.bound > 0 {
		p.loads = make([]atomic.Int64, len(p.bs))
		for _, b := range p.bs {
			p.most = append(p.most, c.bound*b.Weight()/weight)
		}
		for i, b := range p.bs {
			b.Follow(func() { p.loadChanged(i) })
			p.loadChanged(i)
		}
	}
	return p
}

// ring is a table of slots. The requests in flight, per backend and in all, follow the requests as they come and go.
type ring struct {
	owners []uint16 // by slot, index into bs
	bs     []*lb.Backend
	slots  int
	most   []float64 // share of all requests that a backend may hold
	loads  []atomic.Int64

	_     [64]byte
	total atomic.Int64 // sum of loads
	_     [64]byte
}

func (p *ring) loadChanged(i int) {
	for {
		n := int64(p.bs[i].InFlight())
		if was := p.loads[i].Swap(n); was != n {
			p.total.Add(n - was)
		}
		if int64(p.bs[i].InFlight()) == n {
			return // else the next change may have stored its number before this one
		}
	}
}

func (p *ring) Pick(k lb.Key) *lb.Backend {
	hash := placement.HashUint64(hashOf(k))
	i := p.owners[placement.SlotOf(hash, p.slots)]
	if p.loads == nil || p.loads[i].Load() <= 0 {
		return p.bs[i]
	}
	total := float64(p.total.Load() + 1) // the request to come counts
	if p.room(int(i), total) {
		return p.bs[i]
	}
	for range 4 * min(len(p.bs), 16) {
		hash = placement.HashUint64(hash + 0x9e3779b97f4a7c15)
		if j := p.owners[placement.SlotOf(hash, p.slots)]; p.room(int(j), total) {
			return p.bs[j]
		}
	}
	for n := range p.bs { // few have room: the first behind the owner
		if j := (int(i) + n) % len(p.bs); p.room(j, total) {
			return p.bs[j]
		}
	}
	return p.bs[i]
}

// room: one more request stays within bound times the backend's share of all, rounded up, which for whole numbers is
// that those it holds are fewer than that.
func (p *ring) room(i int, total float64) bool {
	return float64(p.loads[i].Load()) < p.most[i]*total
}
