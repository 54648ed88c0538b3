package lb

import (
	"context"
	"time"
)

// A client that leaves ends its context, and that must close the connection that its request is on. context.AfterFunc
// would cost every request a channel, a map and two closures; so the pool looks at the contexts of its busy connections
// at intervals, as a Front's lookout does. Contexts with a deadline are not left to it, nor those of hedges, which one
// waits for.

// look begins to look after c. p.mu is held.
func (p *connPool) look(c *conn, ctx context.Context) {
	c.ctx, c.at, c.left = ctx, len(p.busy), false
	p.busy = append(p.busy, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(sweep, p.sweepBusy)
	}
}

// unlook ends it and returns whether the context had ended by the last look. p.mu is held.
func (p *connPool) unlook(c *conn) (left bool) {
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

// drop closes a connection that is not to be used again.
func (p *connPool) drop(c *conn) {
	p.forsake(c)
	c.Close()
}

// forsake leaves c to its user.
func (p *connPool) forsake(c *conn) {
	p.mu.Lock()
	p.unlook(c)
	p.mu.Unlock()
}

const sweepAtOnce = 256 // so that requests wait for the lock for some microseconds at most

// sweepBusy closes the connections whose contexts have ended. Their users, who find them closed, drop them; one whose
// user is just then done with it is not put back, so that nobody else has it when it is closed.
func (p *connPool) sweepBusy() {
	var gone []*conn
	for from, more := 0, true; more; from += sweepAtOnce {
		p.mu.Lock()
		for _, c := range p.busy[min(from, len(p.busy)):min(from+sweepAtOnce, len(p.busy))] {
			if !c.left && c.ctx.Err() != nil {
				c.left = true
				gone = append(gone, c)
			}
		}
		if more = from+sweepAtOnce < len(p.busy); more {
			// goes on; one that has moved to the front meanwhile is seen by the next sweep
		} else if len(p.busy) > 0 {
			p.sweep.Reset(sweep)
		} else {
			p.sweep = nil
		}
		p.mu.Unlock()
	}
	for _, c := range gone {
		c.abort()
	}
}
