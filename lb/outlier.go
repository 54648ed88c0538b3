package lb

import "time"

// failed counts a failure of a backend, of a request that began at start, and ejects the backend when it has failed
// often enough. What began before its slate was cleaned says how it was then.
func (b *Balancer) failed(be *Backend, start time.Duration) {
	o := b.o.Outlier
	if o.Disabled || start < time.Duration(be.slate.Load()) {
		return
	}
	now := time.Now()
	row, failed, all := be.outlier.failure(now, o.Window)
	switch {
	case row >= o.Consecutive:
	case o.ErrorRate > 0 && all >= int64(o.MinRequests) && float64(failed) >= o.ErrorRate*float64(all):
	default:
		return
	}
	b.eject(be, now)
}

// eject takes a backend out for a while, the longer the more often in a row, but never more than MaxShare of the pool:
// the rest must be able to carry the load.
func (b *Balancer) eject(be *Backend, now time.Time) {
	o := b.o.Outlier
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || be.ejected || b.backends[be.id] != be {
		return
	}
	out := 1
	for _, x := range b.backends {
		if x.ejected {
			out++
		}
	}
	if n := len(b.backends); n < 2 || out > 1 && float64(out) > o.MaxShare*float64(n) {
		return
	}
	if now.Sub(be.until) > o.MaxEjection {
		be.ejections = 0 // it has behaved for long
	}
	be.ejections++
	length := min(time.Duration(be.ejections)*o.Ejection, o.MaxEjection)
	be.ejected, be.until = true, now.Add(length)
	b.ejected.Add(1)
	b.log.Warn("ejected "+be.id, "lb: backend is ejected, its requests fail", "backend", be.id, "for", length)
	b.rebuild(now)
	until := be.until
	time.AfterFunc(length, func() { b.readmit(be, until) })
}

// readmit ends the ejection that lasts until then: the backend is on probation with a clean slate, and with slow start.
// When checks ended that ejection before, there is nothing to do, nor is a later one this timer's to end.
func (b *Balancer) readmit(be *Backend, until time.Time) {
	now := time.Now()
	b.mu.Lock()
	if be.ejected && be.until.Equal(until) {
		be.ejected = false
		be.forgive()
		if b.o.SlowStart > 0 {
			be.rampFrom = now
		}
		b.rebuild(now)
	}
	b.mu.Unlock()
}

// forgive cleans the slate: neither failures so far nor those of requests that are under way count towards an ejection.
func (b *Backend) forgive() {
	b.slate.Store(int64(time.Since(began)))
	b.outlier.reset()
}
