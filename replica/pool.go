package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// node is a server with its free list of physical connections.
type node struct {
	Node
	// gen rises when the node's role or fencing changes; connections of an older generation are not used again.
	gen      atomic.Uint64
	inFlight atomic.Int64
	reads    atomic.Uint64
	writes   atomic.Uint64
	errors   atomic.Uint64
	opened   atomic.Uint64
	life     atomic.Pointer[life]
	tick     atomic.Uint32 // raised by the janitor every quarter of MaxIdleTime

	mu      sync.Mutex // guards what follows; never held during I/O
	free    []*phys    // the last one is the warmest
	total   int        // existing connections, those being opened included
	waiting []chan *phys
	flights *flight
	removed bool
}

// phys is one physical connection.
type phys struct {
	node  *node
	gen   uint64
	conn  driver.Conn
	idle  uint32 // the node's tick when it was given back
	stmts map[string]driver.Stmt
	// broken: must be closed when it is given back.
	broken bool
}

// limits of every node's pool.
type limits struct {
	maxConns, maxIdle int
}

// borrow takes an idle connection or opens one, waiting for room under the cap.
func (n *node) borrow(ctx context.Context, lim *limits) (*phys, error) {
	for {
		n.mu.Lock()
		if n.removed {
			n.mu.Unlock()
			return nil, fmt.Errorf("%w: %s was removed", ErrUnknownNode, n.Name)
		}
		gen := n.gen.Load()
		if k := len(n.free); k > 0 {
			p := n.free[k-1]
			n.free[k-1] = nil
			n.free = n.free[:k-1]
			if p.gen != gen {
				n.total--
				n.mu.Unlock()
				p.close()
				continue
			}
			n.mu.Unlock()
			if r, ok := p.conn.(driver.SessionResetter); ok {
				if err := r.ResetSession(ctx); err != nil {
					n.drop(p)
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
					continue
				}
			}
			n.inFlight.Add(1)
			return p, nil
		}
		if lim.maxConns <= 0 || n.total < lim.maxConns {
			n.total++
			n.mu.Unlock()
			return n.open(ctx, gen)
		}
		wait := make(chan *phys, 1)
		n.waiting = append(n.waiting, wait)
		n.mu.Unlock()
		select {
		case p := <-wait:
			if p == nil { // room for a new one, already counted
				return n.open(ctx, gen)
			}
			if p.gen != n.gen.Load() {
				n.drop(p)
				continue
			}
			if r, ok := p.conn.(driver.SessionResetter); ok {
				if err := r.ResetSession(ctx); err != nil {
					n.drop(p)
					continue
				}
			}
			n.inFlight.Add(1)
			return p, nil
		case <-ctx.Done():
			n.mu.Lock()
			if i := slices.Index(n.waiting, wait); i >= 0 {
				n.waiting = slices.Delete(n.waiting, i, i+1)
				n.mu.Unlock()
			} else { // it was served at the same moment
				n.mu.Unlock()
				if p := <-wait; p != nil {
					n.pass(p, lim)
				} else {
					n.room()
				}
			}
			return nil, ctx.Err()
		}
	}
}

// open connects; the place in total is already taken.
func (n *node) open(ctx context.Context, gen uint64) (*phys, error) {
	c, err := n.Connector.Connect(ctx)
	if err != nil {
		n.room()
		if ctx.Err() == nil {
			n.errors.Add(1)
		}
		return nil, &connectError{node: n, err: err}
	}
	n.opened.Add(1)
	n.inFlight.Add(1)
	return &phys{node: n, gen: gen, conn: c}, nil
}

// connectError: a connection could not be opened, so nothing was sent.
type connectError struct {
	node *node
	err  error
}

func (e *connectError) Error() string {
	return "replica: connect to " + e.node.Name + ": " + e.err.Error()
}
func (e *connectError) Unwrap() error { return e.err }

// giveBack ends the use of a borrowed connection.
func (n *node) giveBack(p *phys, lim *limits) {
	n.inFlight.Add(-1)
	if p.broken || p.gen != n.gen.Load() {
		n.drop(p)
		return
	}
	if v, ok := p.conn.(driver.Validator); ok && !v.IsValid() {
		n.drop(p)
		return
	}
	if len(p.stmts) > maxStmts {
		p.closeStmts()
	}
	n.pass(p, lim)
}

// pass hands a good connection to a waiter or to the free list.
func (n *node) pass(p *phys, lim *limits) {
	n.mu.Lock()
	if len(n.waiting) > 0 {
		w := n.waiting[0]
		n.waiting = slices.Delete(n.waiting, 0, 1)
		n.mu.Unlock()
		w <- p
		return
	}
	if n.removed || len(n.free) >= lim.maxIdle {
		n.total--
		n.mu.Unlock()
		p.close()
		return
	}
	p.idle = n.tick.Load() // asking the clock would cost more than all the rest here
	n.free = append(n.free, p)
	n.mu.Unlock()
}

// drop closes a connection and gives its place to a waiter.
func (n *node) drop(p *phys) {
	n.room()
	p.close()
}

func (n *node) room() {
	n.mu.Lock()
	if len(n.waiting) > 0 {
		w := n.waiting[0]
		n.waiting = slices.Delete(n.waiting, 0, 1)
		n.mu.Unlock()
		w <- nil
		return
	}
	n.total--
	n.mu.Unlock()
}

// discardIdle closes the connections that have been idle for ticks, or all when it is 0. It returns how many.
func (n *node) discardIdle(ticks uint32) int {
	n.mu.Lock()
	keep := n.free[:0]
	var old []*phys
	for _, p := range n.free {
		if ticks > 0 && n.tick.Load()-p.idle < ticks && p.gen == n.gen.Load() {
			keep = append(keep, p)
		} else {
			old = append(old, p)
		}
	}
	clear(n.free[len(keep):])
	n.free = keep
	n.total -= len(old)
	n.mu.Unlock()
	for _, p := range old {
		p.close()
	}
	return len(old)
}

func (n *node) counts() (inUse, idle int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total - len(n.free), len(n.free)
}
