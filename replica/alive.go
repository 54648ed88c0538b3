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
}

func newNode(n Node) *node {
	nd := &node{Node: n}
	nd.revive()
	return nd
}

func (n *node) revive() {
	ctx, cancel := context.WithCancelCause(context.Background())
	n.life.Store(&life{ctx: ctx, cancel: cancel})
}

// eject ends the life of the node and begins the next one: connections opened from now on are of that.
func (n *node) eject() {
	old := n.life.Load()
	n.revive()
	old.cancel(errEjected)
}

// retire closes what is idle, for good.
func (n *node) retire() {
	n.mu.Lock()
	n.removed = true
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

// under returns a context that ends with parent or when the node is ejected, and what to call afterwards (nil: nothing).
func (n *node) under(parent context.Context) (context.Context, func()) {
	l := n.life.Load()
	if parent.Done() == nil {
		return &lifeCtx{Context: l.ctx, values: parent}, nil
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(l.ctx, func() { cancel(errEjected) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// explain replaces the cancellation that our ejection caused, which the caller did not ask for.
func explain(parent, used context.Context, n *node, err error) error {
	if err != nil && parent.Err() == nil && used.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %s", errEjected, n.Name)
	}
	return err
}
