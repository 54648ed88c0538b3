package evict

// ring is a FIFO of nodes that may be removed from the middle: a removed node leaves a hole, which is dropped when it
// reaches the head or when the ring is repacked. A node's position is its index in buf.
type ring[N Node] struct {
	buf   []N
	head  int // index of the oldest slot
	used  int // slots between head and tail, holes included
	nodes int
	sum   int64 // weight
}

func (r *ring[N]) push(n N, bits uint32) {
	if r.used == len(r.buf) {
		r.repack()
	}
	i := (r.head + r.used) % len(r.buf)
	r.buf[i] = n
	r.used++
	r.nodes++
	r.sum += n.Weight()
	n.EvictState().place(word(i, bits))
}

// repack squeezes the holes out, into twice the room when the ring is mostly full of nodes.
func (r *ring[N]) repack() {
	size := max(8, len(r.buf))
	if r.nodes*2 > size {
		size += size / 2
	}
	var zero N
	next := make([]N, size)
	k := 0
	for j := range r.used {
		if n := r.buf[(r.head+j)%len(r.buf)]; n != zero {
			next[k] = n
			st := n.EvictState()
			st.place(word(k, st.word.Load()&(1<<posShift-1)))
			k++
		}
	}
	r.buf, r.head, r.used = next, 0, k
}

func (r *ring[N]) pop() (n N, ok bool) {
	var zero N
	for r.used > 0 {
		n = r.buf[r.head]
		r.buf[r.head] = zero
		r.head = (r.head + 1) % len(r.buf)
		r.used--
		if n != zero {
			r.nodes--
			r.sum -= n.Weight()
			return n, true
		}
	}
	return zero, false
}

func (r *ring[N]) remove(n N) {
	var zero N
	r.buf[n.EvictState().pos()] = zero
	r.nodes--
	r.sum -= n.Weight()
}

func (r *ring[N]) replace(old, new N) {
	st := old.EvictState().word.Load()
	r.buf[st>>posShift] = new
	new.EvictState().place(st)
	r.sum += new.Weight() - old.Weight()
}

// fifo is the ring with nothing else.
type fifo[N Node] struct{ ring[N] }

func newFIFO[N Node]() *fifo[N]             { return &fifo[N]{} }
func (p *fifo[N]) Add(n N)                  { p.push(n, 0) }
func (p *fifo[N]) Touch(N)                  {}
func (p *fifo[N]) Evict() (N, bool)         { return p.pop() }
func (p *fifo[N]) Remove(n N)               { p.remove(n) }
func (p *fifo[N]) Replace(old, new N)       { p.replace(old, new) }
func (p *fifo[N]) Len() int                 { return p.nodes }
func (p *fifo[N]) Weight() int64            { return p.sum }
func (p *fifo[N]) SetCapacity(weight int64) {}

// clock is a circle of nodes with a hand. Removed nodes leave holes, kept on a stack: the newest hole is the one the
// hand has just made, so that a new node is placed right behind the hand, a full turn away from being looked at.
type clock[N Node] struct {
	buf   []N
	holes []uint32
	hand  int
	nodes int
	sum   int64
}

func (c *clock[N]) add(n N) {
	var i int
	if k := len(c.holes); k > 0 {
		i = int(c.holes[k-1])
		c.holes = c.holes[:k-1]
		c.buf[i] = n
	} else {
		i = len(c.buf)
		c.buf = append(c.buf, n)
	}
	n.EvictState().place(word(i, inMain))
	c.nodes++
	c.sum += n.Weight()
}

// evict turns the hand to the first node without visits, taking one visit from each node it passes: at most three turns.
func (c *clock[N]) evict() (N, bool) {
	var zero N
	if c.nodes == 0 {
		return zero, false
	}
	for {
		if c.hand >= len(c.buf) {
			c.hand = 0
		}
		n := c.buf[c.hand]
		c.hand++
		if n == zero {
			continue
		}
		if st := n.EvictState(); st.visits() > 0 {
			st.unvisit()
			continue
		}
		c.remove(n)
		return n, true
	}
}

func (c *clock[N]) remove(n N) {
	var zero N
	i := n.EvictState().pos()
	c.buf[i] = zero
	c.nodes--
	c.sum -= n.Weight()
	c.holes = append(c.holes, uint32(i))
	if len(c.holes) > 64 && len(c.holes) > len(c.buf)/2 {
		c.repack()
	}
}

func (c *clock[N]) replace(old, new N) {
	st := old.EvictState().word.Load()
	c.buf[st>>posShift] = new
	new.EvictState().place(st)
	c.sum += new.Weight() - old.Weight()
}

// repack squeezes out the holes, in circle order from the hand.
func (c *clock[N]) repack() {
	var zero N
	next := make([]N, 0, c.nodes+c.nodes/4)
	for j := range c.buf {
		if n := c.buf[(c.hand+j)%len(c.buf)]; n != zero {
			st := n.EvictState()
			st.place(word(len(next), inMain|st.visits()))
			next = append(next, n)
		}
	}
	c.buf, c.holes, c.hand = next, nil, 0
}
