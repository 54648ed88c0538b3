package evict

// s3tk: new entries enter a FIFO window. One that was visited at least twice by the time it leaves the window moves to the main CLOCK; the others leave a
// fingerprint in the ghost list. An entry whose fingerprint is found there goes to main at once: it was asked for again soon after we had given up
// on it.
//
// The window's size follows what a little more of it would have brought. An entry that comes back soon after it left the window would have been a hit with a
// window that is a twentieth of the capacity larger; one that comes back soon after it left main would have been a hit with a main queue that is larger by as
// much. Each of the former makes the window an entry larger, each of the latter makes it an entry smaller, until both bring the same (the idea of
// ARC, Megiddo and Modha, FAST 2003, at the margin). Traffic that repeats soon gets a large window, loops and scans a small one. All of this is seen in
// misses: a hit still does nothing but set its bits.
type s3tk[N Node] struct {
	window   ring[N]
	main     clock[N]
	ghosts   ghost
	capacity int64
	target   int64 // weight the window may hold
}

// Shares of the capacity for the window: at first, at least and at most. The hit ratios of the traces depend little on them.
const (
	windowFirst = 20 // one in
	windowLeast = 50 // one in
	windowMost  = 80 // percent
	nearBy      = 20 // a ghost is near for so much of its life: one in
)

func newS3TK[N Node](capacity int64) *s3tk[N] {
	p := &s3tk[N]{}
	p.SetCapacity(capacity)
	return p
}

func (p *s3tk[N]) SetCapacity(weight int64) {
	if p.capacity > 0 {
		p.target = int64(float64(p.target) / float64(p.capacity) * float64(weight))
	} else {
		p.target = weight / windowFirst
	}
	p.capacity = weight
	p.resize(0)
}

func (p *s3tk[N]) resize(by int64) {
	p.target = max(1, p.capacity/windowLeast, min(p.target+by, p.capacity*windowMost/100))
}

func (p *s3tk[N]) Add(n N) {
	from, near := p.ghosts.take(n.Fingerprint())
	switch {
	case from == ofWindow:
		if near {
			p.resize(n.Weight())
		}
		p.main.add(n)
		return
	case from == ofMain:
		p.resize(-n.Weight())
		p.window.push(n, 1) // its time in main counts as a visit
		return
	}
	p.window.push(n, 0)
}

func (p *s3tk[N]) Touch(n N) { n.EvictState().Visit() }

func (p *s3tk[N]) Evict() (N, bool) {
	for {
		if p.window.sum <= p.target {
			if n, ok := p.evictMain(); ok {
				return n, true
			}
		}
		n, ok := p.window.pop()
		if !ok {
			return p.evictMain()
		}
		visits := n.EvictState().visits()
		switch {
		case p.main.sum+n.Weight() <= p.capacity-p.target || p.main.nodes == 0 && p.window.nodes > 0:
			p.main.add(n) // warm-up: an unfilled main takes everything
		case visits > 1:
			v, ok := p.evictMain()
			p.main.add(n)
			if ok {
				return v, true
			}
		default:
			p.ghosts.add(n.Fingerprint(), ofWindow, p.Len()+1)
			return n, true
		}
	}
}

func (p *s3tk[N]) evictMain() (N, bool) {
	n, ok := p.main.evict()
	if ok {
		p.ghosts.add(n.Fingerprint(), ofMain, p.Len()+1)
	}
	return n, ok
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
