package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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

	// hot is one idle connection that changes hands without the lock: with one user at a time, all of them. A waiter
	// raises waiters before it looks here, and who puts one here looks at waiters and gone afterwards, so that none is
	// overlooked.
	hot     atomic.Pointer[phys]
	waiters atomic.Int32
	gone    atomic.Bool // removed, for those without the lock

	mu      sync.Mutex // guards what follows; never held during I/O
	free    []*phys    // the last one is the warmest
	total   int        // existing connections, those being opened included
	waiting []chan *phys
	flights *madeFlight
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
	// what the driver's connection can do, asked once; nil when it cannot
	queryer   driver.QueryerContext
	execer    driver.ExecerContext
	checker   driver.NamedValueChecker
	resetter  driver.SessionResetter
	validator driver.Validator
}

func newPhys(c driver.Conn) *phys {
	p := &phys{conn: c}
	p.queryer, _ = c.(driver.QueryerContext)
	p.execer, _ = c.(driver.ExecerContext)
	p.checker, _ = c.(driver.NamedValueChecker)
	p.resetter, _ = c.(driver.SessionResetter)
	p.validator, _ = c.(driver.Validator)
	return p
}

func (p *phys) reset(ctx context.Context) error {
	if p.resetter == nil {
		return nil
	}
	return p.resetter.ResetSession(ctx)
}

func (p *phys) valid() bool { return p.validator == nil || p.validator.IsValid() }

// limits of every node's pool.
type limits struct {
	maxConns, maxIdle int
}

// borrow takes an idle connection or opens one, waiting for room under the cap.
func (n *node) borrow(ctx context.Context, lim *limits) (*phys, error) {
	if p := n.hot.Load(); p != nil && n.hot.CompareAndSwap(p, nil) {
		if p.gen == n.gen.Load() && p.reset(ctx) == nil {
			n.inFlight.Add(1)
			return p, nil
		}
		n.drop(p)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
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
			if p.reset(ctx) != nil {
				n.drop(p)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				continue
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
		n.waiters.Add(1)
		n.mu.Unlock()
		n.cool(lim)
		select {
		case p := <-wait:
			if p == nil { // room for a new one, already counted
				return n.open(ctx, gen)
			}
			if p.gen != n.gen.Load() {
				n.drop(p)
				continue
			}
			if p.reset(ctx) != nil {
				n.drop(p)
				continue
			}
			n.inFlight.Add(1)
			return p, nil
		case <-ctx.Done():
			n.mu.Lock()
			if i := slices.Index(n.waiting, wait); i >= 0 {
				n.waiting = slices.Delete(n.waiting, i, i+1)
				n.waiters.Add(-1)
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
	began := time.Now()
	c, err := n.Connector.Connect(ctx)
	if err != nil {
		n.room()
		if ctx.Err() == nil {
			n.errors.Add(1)
		}
		return nil, &connectError{node: n, err: err, began: began}
	}
	n.opened.Add(1)
	n.inFlight.Add(1)
	p := newPhys(c)
	p.node, p.gen = n, gen
	return p, nil
}

// connectError: a connection could not be opened, so nothing was sent.
type connectError struct {
	node  *node
	err   error
	began time.Time
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
	if !p.valid() {
		n.drop(p)
		return
	}
	if len(p.stmts) > maxStmts {
		p.closeStmts()
	}
	if lim.maxIdle > 0 && n.hot.Load() == nil && n.waiters.Load() == 0 {
		p.idle = n.tick.Load()
		if n.hot.CompareAndSwap(nil, p) {
			if n.waiters.Load() != 0 || n.gone.Load() {
				n.cool(lim)
			}
			return
		}
	}
	n.pass(p, lim)
}

// cool moves the hot connection to a waiter, or to the free list.
func (n *node) cool(lim *limits) {
	if p := n.hot.Swap(nil); p != nil {
		n.pass(p, lim)
	}
}

// pass hands a good connection to a waiter or to the free list.
func (n *node) pass(p *phys, lim *limits) {
	n.mu.Lock()
	if len(n.waiting) > 0 {
		w := n.waiting[0]
		n.waiting = slices.Delete(n.waiting, 0, 1)
		n.waiters.Add(-1)
		n.mu.Unlock()
		w <- p
		return
	}
	if n.removed || len(n.free) >= lim.maxIdle-1 { // one place is for the hot one
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
		n.waiters.Add(-1)
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
	stale := func(p *phys) bool { return ticks == 0 || n.tick.Load()-p.idle >= ticks || p.gen != n.gen.Load() }
	var old []*phys
	if p := n.hot.Swap(nil); p != nil {
		switch {
		case len(n.waiting) > 0: // it waits for this one, which giveBack was about to notice
			w := n.waiting[0]
			n.waiting = slices.Delete(n.waiting, 0, 1)
			n.waiters.Add(-1)
			w <- p
		case stale(p) || !n.hot.CompareAndSwap(nil, p):
			old = append(old, p)
		}
	}
	keep := n.free[:0]
	for _, p := range n.free {
		if stale(p) {
			old = append(old, p)
		} else {
			keep = append(keep, p)
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
	idle = len(n.free) + hotCount(n)
	return n.total - idle, idle
}

func hotCount(n *node) int { return btoi(n.hot.Load() != nil) }
