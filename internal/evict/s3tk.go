package evict

// s3tk: new entries enter a FIFO window of a tenth of the capacity. One that was visited at least twice by the time it
// leaves the window moves to the main CLOCK; the others leave a fingerprint in the ghost list. An entry whose
// fingerprint is found there goes to main at once: it was asked for again soon after we had given up on it.
type s3tk[N Node] struct {
	window ring[N]
	main   clock[N]
	ghosts ghost
	target int64 // weight the window may hold
	room   int64 // weight main may hold before it counts as full
}

func newS3TK[N Node](capacity int64) *s3tk[N] {
	p := &s3tk[N]{}
	p.SetCapacity(capacity)
	return p
}

func (p *s3tk[N]) SetCapacity(weight int64) {
	p.target = max(1, weight/10)
	p.room = max(1, weight-p.target)
}

func (p *s3tk[N]) Add(n N) {
	if p.ghosts.take(n.Fingerprint()) {
		p.main.add(n)
		return
	}
	p.window.push(n, 0)
}

func (p *s3tk[N]) Touch(n N) { n.EvictState().Visit() }

func (p *s3tk[N]) Evict() (N, bool) {
	for {
		if p.window.sum <= p.target {
			if n, ok := p.main.evict(); ok {
				return n, true
			}
		}
		n, ok := p.window.pop()
		if !ok {
			return p.main.evict()
		}
		visits := n.EvictState().visits()
		switch {
		case p.main.sum+n.Weight() <= p.room || p.main.nodes == 0 && p.window.nodes > 0:
			p.main.add(n) // warm-up: an unfilled main takes everything
		case visits > 1:
			v, _ := p.main.evict()
			p.main.add(n)
			var zero N
			if v != zero {
				return v, true
			}
		default:
			p.ghosts.add(n.Fingerprint(), p.Len()+1)
			return n, true
		}
	}
}

func (p *s3tk[N]) Remove(n N) {
	if n.EvictState().main() {
		p.main.remove(n)
	} else {
		p.window.remove(n)
	}
}

func (p *s3tk[N]) Replace(old, new N) {
	if old.EvictState().main() {
		p.main.replace(old, new)
	} else {
		p.window.replace(old, new)
	}
}

func (p *s3tk[N]) Len() int      { return p.window.nodes + p.main.nodes }
func (p *s3tk[N]) Weight() int64 { return p.window.sum + p.main.sum }

// ghost remembers about as many evicted fingerprints as there are entries, in four bytes each: a set-associative table of
// 16-bit tags and 16-bit stamps, where a stamp counts evictions in units of 1/1024 of the capacity. A false
// recollection (about 4 in 65,536) only lets one entry into main early.
type ghost struct {
	slots []uint32 // tag<<16 | stamp, 0 = empty; ways per set
	mask  uint32
	life  int // evictions that a fingerprint is remembered for
	added int
}

const ways = 4

func (g *ghost) add(fp uint32, entries int) {
	if need := entries; need > len(g.slots) || need < len(g.slots)/8 {
		size := ways
		for size < need {
			size <<= 1
		}
		if size != len(g.slots) {
			g.slots, g.mask = make([]uint32, size), uint32(size/ways-1)
		}
	}
	g.life = entries
	g.added++
	now := g.stamp()
	set := g.set(fp)
	oldest, age := 0, uint16(0)
	for i, s := range set {
		if s == 0 {
			oldest = i
			break
		}
		if a := now - uint16(s); a >= age {
			oldest, age = i, a
		}
	}
	e := fp&^0xffff | uint32(now)
	if e == 0 {
		e = 1 << 16
	}
	set[oldest] = e
}

// take reports whether fp is remembered, and forgets it.
func (g *ghost) take(fp uint32) bool {
	if g.slots == nil {
		return false
	}
	set, now := g.set(fp), g.stamp()
	for i, s := range set {
		if s != 0 && s>>16 == fp>>16 && int(now-uint16(s)) <= g.life/g.unit() {
			set[i] = 0
			return true
		}
	}
	return false
}

func (g *ghost) unit() int     { return max(1, g.life>>10) }
func (g *ghost) stamp() uint16 { return uint16(g.added / g.unit()) }

// set picks the set by the low half of the fingerprint, spread by a multiplication; the tag is the high half.
func (g *ghost) set(fp uint32) []uint32 {
	i := int((fp*0x9E3779B1)>>7&g.mask) * ways
	return g.slots[i : i+ways : i+ways]
}
