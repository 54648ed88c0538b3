package queue

import "container/heap"

// ref is all that memory holds of a waiting message: 24 bytes, whatever the message's size.
type ref struct {
	seq      uint64
	segment  uint32
	offset   uint32
	length   uint32 // of the record, header included
	attempts uint16
	priority uint8
	redriven bool // its TTL does not count any more
}

// refQueue is a FIFO in chunks, so that a long backlog neither moves in memory nor keeps memory when it is gone.
type refQueue struct {
	chunks [][]ref
	head   int // first used index in chunks[0]
	n      int
}

const chunkRefs = 512

func (q *refQueue) push(r ref) {
	if k := len(q.chunks); k == 0 || len(q.chunks[k-1]) == cap(q.chunks[k-1]) {
		size := 4 // most queues are short: there is one for each busy key
		if k > 0 {
			size = min(2*cap(q.chunks[k-1]), chunkRefs)
		}
		q.chunks = append(q.chunks, make([]ref, 0, size))
	}
	last := &q.chunks[len(q.chunks)-1]
	*last = append(*last, r)
	q.n++
}

func (q *refQueue) peek() (ref, bool) {
	if q.n == 0 {
		return ref{}, false
	}
	return q.chunks[0][q.head], true
}

func (q *refQueue) pop() (ref, bool) {
	r, ok := q.peek()
	if !ok {
		return r, false
	}
	q.head++
	q.n--
	if q.n == 0 && len(q.chunks) == 1 {
		q.chunks[0], q.head = q.chunks[0][:0], 0
	} else if q.head == len(q.chunks[0]) {
		q.chunks[0] = nil
		q.chunks, q.head = q.chunks[1:], 0
	}
	return r, true
}

// insert puts a ref at its place by number, in a queue that is in that order. It moves the others: it is for what comes
// back, not for what comes.
func (q *refQueue) insert(r ref) {
	all := make([]ref, 0, q.n+1)
	q.each(func(o *ref) {
		if o.seq > r.seq && r.length != 0 {
			all = append(all, r)
			r.length = 0 // once
		}
		all = append(all, *o)
	})
	if r.length != 0 {
		all = append(all, r)
	}
	*q = refQueue{}
	for _, r := range all {
		q.push(r)
	}
}

// keep drops what f does not want, and returns how many that were.
func (q *refQueue) keep(f func(ref) bool) (dropped int) {
	kept := refQueue{}
	q.each(func(r *ref) {
		if f(*r) {
			kept.push(*r)
		} else {
			dropped++
		}
	})
	if dropped > 0 {
		*q = kept
	}
	return dropped
}

// each calls f for every ref in order.
func (q *refQueue) each(f func(*ref)) {
	for i, c := range q.chunks {
		if i == 0 {
			c = c[q.head:]
		}
		for j := range c {
			f(&c[j])
		}
	}
}

// timed is a message that waits for a time (delayed) or is held until one (leased), in Unix nanoseconds.
type timed struct {
	at int64
	r  ref
}

type delayHeap []timed

func (h delayHeap) Len() int { return len(h) }
func (h delayHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].r.seq < h[j].r.seq
}
func (h delayHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *delayHeap) Push(x any)   { *h = append(*h, x.(timed)) }
func (h *delayHeap) Pop() any {
	o := *h
	x := o[len(o)-1]
	*h = o[:len(o)-1]
	return x
}

func (h *delayHeap) add(at int64, r ref) { heap.Push(h, timed{at, r}) }

// lease is a message in the hands of a consumer.
type lease struct {
	r        ref
	token    uint64
	deadline int64 // nanoseconds since the engine's start, monotonic
	index    int   // in the heap
	named    bool  // by the settlement that is being looked at
}

type leaseHeap []*lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *leaseHeap) Push(x any) {
	l := x.(*lease)
	l.index = len(*h)
	*h = append(*h, l)
}
func (h *leaseHeap) Pop() any {
	o := *h
	x := o[len(o)-1]
	o[len(o)-1] = nil
	*h = o[:len(o)-1]
	return x
}

// seqSet is a set of message numbers that come and go roughly in order: bits in pages, a page goes when it is empty.
type seqSet struct {
	pages map[uint64]*seqPage
	last  *seqPage // of the page used last
	lastN uint64
}

type seqPage struct {
	bits  [64]uint64
	count int
}

func (s *seqSet) page(seq uint64, create bool) *seqPage {
	n := seq >> 12
	if s.last != nil && s.lastN == n {
		return s.last
	}
	p := s.pages[n]
	if p == nil {
		if !create {
			return nil
		}
		if s.pages == nil {
			s.pages = map[uint64]*seqPage{}
		}
		p = &seqPage{}
		s.pages[n] = p
	}
	s.last, s.lastN = p, n
	return p
}

func (s *seqSet) add(seq uint64) {
	p := s.page(seq, true)
	w, b := &p.bits[seq>>6&63], uint64(1)<<(seq&63)
	if *w&b == 0 {
		*w |= b
		p.count++
	}
}

func (s *seqSet) has(seq uint64) bool {
	p := s.page(seq, false)
	return p != nil && p.bits[seq>>6&63]&(1<<(seq&63)) != 0
}

func (s *seqSet) remove(seq uint64) bool {
	p := s.page(seq, false)
	w, b := (*uint64)(nil), uint64(1)<<(seq&63)
	if p != nil {
		w = &p.bits[seq>>6&63]
	}
	if p == nil || *w&b == 0 {
		return false
	}
	*w &^= b
	if p.count--; p.count == 0 {
		delete(s.pages, seq>>12)
		s.last = nil
	}
	return true
}
