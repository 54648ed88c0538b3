package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errEjected = errors.New("replica: node was ejected")

// life is a context that ends when the node is ejected, so that what hangs on a frozen host is let go. The next time the
// node is up it gets a new one.
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
	old := n.life.Load()
	n.revive()
	old.cancel(errEjected)
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

// flight is a statement under a context that can end by itself; the node lists them to cancel them when it is ejected.
type flight struct {
	node       *node
	cancel     context.CancelCauseFunc
	prev, next *flight
}

// under returns a context that ends with parent or when the node is ejected. It lasts until the use ends.
func (n *conn) under(parent context.Context, nd *node) context.Context {
	if parent == context.Background() {
		return nd.life.Load().plain
	}
	if parent.Done() == nil {
		return &lifeCtx{Context: nd.life.Load().ctx, values: parent}
	}
	ctx, cancel := context.WithCancelCause(parent)
	f := &n.flight
	if f.node != nil { // taken: several rows are open
		f = new(flight)
	}
	*f = flight{node: nd, cancel: cancel}
	nd.mu.Lock()
	if f.next = nd.flights; f.next != nil {
		f.next.prev = f
	}
	nd.flights = f
	nd.mu.Unlock()
	n.flying = append(n.flying, f)
	return ctx
}

// land ends the flights of a use.
func (n *conn) land() {
	for i, f := range n.flying {
		f.node.mu.Lock()
		if f.prev != nil {
			f.prev.next = f.next
		} else {
			f.node.flights = f.next
		}
		if f.next != nil {
			f.next.prev = f.prev
		}
		f.node.mu.Unlock()
		f.cancel(nil)
		*f = flight{}
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
