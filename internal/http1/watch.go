package http1

import (
	"context"
	"time"
)

// A client that leaves ends its context, and that must close the connection that its request is on. context.AfterFunc
// would cost every request a channel, a map and two closures, so the pool looks at the contexts of its busy connections
// every Sweep. Contexts with a deadline and those of hedged requests, which are waited for, use AfterFunc.

// Sweep is how often a pool looks at the contexts that it watches.
const Sweep = 50 * time.Millisecond

// watch begins to watch ctx for c. p.mu is held.
func (p *Pool) watch(c *Conn, ctx context.Context) {
	c.ctx, c.at, c.left = ctx, len(p.busy), false
	p.busy = append(p.busy, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(Sweep, p.sweepBusy)
	}
}

// unwatch ends that. It reports whether the context had ended at the last look. p.mu is held.
func (p *Pool) unwatch(c *Conn) (left bool) {
	if c.ctx == nil {
		return false
	}
	last := len(p.busy) - 1
	p.busy[c.at] = p.busy[last]
	p.busy[c.at].at = c.at
	p.busy[last] = nil
	p.busy = p.busy[:last]
	c.ctx = nil
	return c.left
}

// Drop closes a connection that must not be used again.
func (p *Pool) Drop(c *Conn) {
	p.Release(c)
	c.Close()
}

// Release ends the watch of c's context. The caller closes c.
func (p *Pool) Release(c *Conn) {
	p.mu.Lock()
	p.unwatch(c)
	p.mu.Unlock()
}

const sweepAtOnce = 256 // connections per lock, so that requests wait for it for some microseconds at most

// sweepBusy closes the connections whose contexts have ended. Their requests fail and drop them. Put does not keep a
// connection that a sweep has marked, so that no other request has it when it is closed.
func (p *Pool) sweepBusy() {
	var gone []*Conn
	for from, more := 0, true; more; from += sweepAtOnce {
		p.mu.Lock()
		for _, c := range p.busy[min(from, len(p.busy)):min(from+sweepAtOnce, len(p.busy))] {
			if !c.left && c.ctx.Err() != nil {
				c.left = true
				gone = append(gone, c)
			}
		}
		if more = from+sweepAtOnce < len(p.busy); more {
			// a connection that moves to the front meanwhile is seen by the next sweep
		} else if len(p.busy) > 0 {
			p.sweep.Reset(Sweep)
		} else {
			p.sweep = nil
		}
		p.mu.Unlock()
	}
	for _, c := range gone {
		c.Abort()
	}
}

// Watched reports whether the pool watches a context for c.
func (c *Conn) Watched() bool { return c.ctx != nil }
