package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var errEjected = errors.New("replica: node was ejected")

// life is a context that ends when the node is ejected, so that what hangs on a frozen host is let go. The next time
// the node is up it gets a new one; until then whatever comes late finds the one that has ended.
type life struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	// plain is ctx with the values of context.Background, made once: most statements run under that.
	plain *lifeCtx
}

func newNode(n Node) *node {
	nd := &node{Node: n}
	nd.revive()
	return nd
}

func (n *node) revive() {
	ctx, cancel := context.WithCancelCause(context.Background())
	n.life.Store(&life{ctx: ctx, cancel: cancel, plain: &lifeCtx{Context: ctx, values: context.Background()}})
}

// eject ends the life of the node and begins the next one: connections opened from now on are of that.
func (n *node) eject() {
	n.end()
	n.revive()
}

func (n *node) ended() bool { return n.life.Load().ctx.Err() != nil }

func (n *node) end() {
	if n.ended() {
		return
	}
	n.life.Load().cancel(errEjected)
	n.mu.Lock()
	var cancels []context.CancelCauseFunc
	for f := n.flights; f != nil; f = f.next {
		cancels = append(cancels, f.cancel)
	}
	n.mu.Unlock()
	for _, cancel := range cancels {
		cancel(errEjected)
	}
}

// retire closes what is idle, for good.
func (n *node) retire() {
	n.mu.Lock()
	n.removed = true
	n.gone.Store(true)
	n.mu.Unlock()
	n.discardIdle(0)
	n.life.Load().cancel(errEjected)
}

// lifeCtx has the values and the deadline of a context without a Done channel, and ends with the node's life.
type lifeCtx struct {
	context.Context // the node's life
	values          context.Context
}

func (l *lifeCtx) Value(key any) any                { return l.values.Value(key) }
func (l *lifeCtx) Deadline() (t time.Time, ok bool) { return l.values.Deadline() }

// flight is the context of a statement whose own context can end: it ends with that one, when the node is ejected, or
// with the use. Most of it is made when the driver first asks for Done, which not every driver does: a context that
// ends costs more than the rest of a statement's way through this package.
type flight struct {
	context.Context // the statement's: its deadline and its values
	node            *node
	life            *life

	mu     sync.Mutex
	landed bool
	made   atomic.Pointer[madeFlight]
}

type madeFlight struct {
	context.Context
	cancel     context.CancelCauseFunc
	prev, next *madeFlight // of the node, which cancels them when it is ejected
}

func (f *flight) Done() <-chan struct{} {
	if m := f.made.Load(); m != nil {
		return m.Done()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.made.Load()
	if m != nil {
		return m.Done()
	}
	m = new(madeFlight)
	m.Context, m.cancel = context.WithCancelCause(f.Context)
	if f.landed {
		m.cancel(nil)
	} else {
		f.node.takeOff(m)
		if f.life.ctx.Err() != nil { // after it was listed: whoever ejects the node meanwhile finds it there
			m.cancel(errEjected)
		}
	}
	f.made.Store(m)
	return m.Done()
}

func (f *flight) Err() error {
	if m := f.made.Load(); m != nil {
		return m.Err()
	}
	if err := f.Context.Err(); err != nil {
		return err
	}
	if f.life.ctx.Err() != nil {
		return context.Canceled
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.landed {
		return context.Canceled
	}
	return nil
}

// Value finds the made context too, so that package context joins what is derived from this one without a goroutine.
func (f *flight) Value(key any) any {
	if m := f.made.Load(); m != nil {
		return m.Value(key)
	}
	return f.Context.Value(key)
}

func (f *flight) land() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.landed = true
	if m := f.made.Load(); m != nil {
		f.node.landed(m)
		m.cancel(nil)
	}
}

func (n *node) takeOff(m *madeFlight) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.next = n.flights; m.next != nil {
		m.next.prev = m
	}
	n.flights = m
}

func (n *node) landed(m *madeFlight) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		n.flights = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	}
	m.prev, m.next = nil, nil
}

// under returns a context that ends with parent or when the node is ejected. It lasts until the use ends.
func (n *conn) under(parent context.Context, nd *node) context.Context {
	life := nd.life.Load()
	if parent == context.Background() {
		return life.plain
	}
	if parent.Done() == nil {
		return &lifeCtx{Context: life.ctx, values: parent}
	}
	f := &flight{Context: parent, node: nd, life: life}
	n.flying = append(n.flying, f)
	return f
}

// done ends the flight of a statement that leaves no rows behind; the use may last for many more.
func (n *conn) done(s *statement, used context.Context) {
	if k := len(n.flying) - 1; k >= 0 && s.isExec() && n.flying[k] == used {
		n.flying[k].land()
		n.flying[k] = nil
		n.flying = n.flying[:k]
	}
}

// land ends the flights of a use.
func (n *conn) land() {
	for i, f := range n.flying {
		f.land()
		n.flying[i] = nil
	}
	n.flying = n.flying[:0]
}

// explain replaces the cancellation that our ejection caused, which the caller did not ask for.
func explain(parent, used context.Context, n *node, err error) error {
	if err != nil && parent.Err() == nil && used.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %s", errEjected, n.Name)
	}
	return err
}
