package evict

import (
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// lru is golang-lru's list; the capacity is the caller's business, so the list itself is unbounded.
type lru[N Node] struct {
	list *simplelru.LRU[N, struct{}]
	sum  int64
}

func newLRU[N Node]() *lru[N] {
	l, err := simplelru.NewLRU[N, struct{}](math.MaxInt, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &lru[N]{list: l}
}

func (p *lru[N]) Add(n N) {
	p.list.Add(n, struct{}{})
	p.sum += n.Weight()
}

func (p *lru[N]) Touch(n N) { p.list.Get(n) }

func (p *lru[N]) Evict() (N, bool) {
	n, _, ok := p.list.RemoveOldest()
	if ok {
		p.sum -= n.Weight()
	}
	return n, ok
}

func (p *lru[N]) Remove(n N) {
	if p.list.Remove(n) {
		p.sum -= n.Weight()
	}
}

// Replace makes the new node the most recently used: an update is a use.
func (p *lru[N]) Replace(old, new N) {
	p.Remove(old)
	p.Add(new)
}

func (p *lru[N]) Len() int            { return p.list.Len() }
func (p *lru[N]) Weight() int64       { return p.sum }
func (p *lru[N]) SetCapacity(_ int64) {}

// lfu is a heap ordered by (uses + age at admission, order of arrival). Age is the rank of the last victim, so that a
// newcomer starts level with what is being given up.
type lfu[N Node] struct {
	heap []ranked[N]
	age  uint64
	tick uint64
	sum  int64
}

type ranked[N Node] struct {
	rank, seq uint64
	node      N
}

func newLFU[N Node]() *lfu[N] { return &lfu[N]{} }

func (p *lfu[N]) less(i, j int) bool {
	a, b := &p.heap[i], &p.heap[j]
	return a.rank < b.rank || a.rank == b.rank && a.seq < b.seq
}

func (p *lfu[N]) swap(i, j int) {
	p.heap[i], p.heap[j] = p.heap[j], p.heap[i]
	p.settle(i)
	p.settle(j)
}

func (p *lfu[N]) settle(i int) { p.heap[i].node.EvictState().place(word(i, 0)) }

func (p *lfu[N]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !p.less(i, parent) {
			return
		}
		p.swap(i, parent)
		i = parent
	}
}

func (p *lfu[N]) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(p.heap) {
			return
		}
		if c+1 < len(p.heap) && p.less(c+1, c) {
			c++
		}
		if !p.less(c, i) {
			return
		}
		p.swap(i, c)
		i = c
	}
}

func (p *lfu[N]) Add(n N) {
	p.tick++
	p.heap = append(p.heap, ranked[N]{p.age + 1, p.tick, n})
	p.settle(len(p.heap) - 1)
	p.up(len(p.heap) - 1)
	p.sum += n.Weight()
}

func (p *lfu[N]) Touch(n N) {
	i := n.EvictState().pos()
	p.heap[i].rank++
	p.down(i)
}

func (p *lfu[N]) Evict() (N, bool) {
	if len(p.heap) == 0 {
		var zero N
		return zero, false
	}
	top := p.heap[0]
	p.age = top.rank
	p.Remove(top.node)
	return top.node, true
}

func (p *lfu[N]) Remove(n N) {
	i, last := n.EvictState().pos(), len(p.heap)-1
	if i != last {
		p.swap(i, last)
	}
	p.heap[last] = ranked[N]{}
	p.heap = p.heap[:last]
	if i != last {
		p.down(i)
		p.up(i)
	}
	p.sum -= n.Weight()
}

func (p *lfu[N]) Replace(old, new N) {
	i := old.EvictState().pos()
	p.heap[i].node = new
	p.settle(i)
	p.sum += new.Weight() - old.Weight()
	p.Touch(new)
}

func (p *lfu[N]) Len() int            { return len(p.heap) }
func (p *lfu[N]) Weight() int64       { return p.sum }
func (p *lfu[N]) SetCapacity(_ int64) {}
