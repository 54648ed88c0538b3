// Package gate lets one process kill, freeze and revive the nodes that it simulates.
//
// Every effect of a simulated node (a connection it answers, a statement it runs, a commit, an acknowledgement) passes
// the node's Gate. Killing closes the gate at once and waits for effects that are inside it, so when Kill has returned
// no goroutine of the dead node can still commit or acknowledge anything.
package gate

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrDead is returned by everything that tries to pass the gate of a killed node.
var ErrDead = errors.New("gate: node is dead")

// State of a gate.
type State uint8

const (
	Open   State = iota // effects pass
	Frozen              // effects wait
	Dead                // effects fail with ErrDead
)

func (s State) String() string { return [...]string{"open", "frozen", "dead"}[s] }

// A Gate is the switch of one node. The zero value is open. Safe for concurrent use.
type Gate struct {
	mu     sync.Mutex
	state  State
	inside int
	empty  chan struct{} // closed when inside drops to 0 while somebody waits for it
	change chan struct{} // closed on every change of state
	dead   chan struct{} // closed while dead; replaced by Open
	delay  time.Duration // of everything that a connection reads
}

// New returns an open gate.
func New() *Gate { return &Gate{} }

// State returns the present state.
func (g *Gate) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// Enter waits while the gate is frozen, then lets one effect begin. On nil the caller must call Leave when the effect
// is over. Effects must be short: Kill and Freeze wait for those inside.
func (g *Gate) Enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		switch g.state {
		case Open:
			g.inside++
			g.mu.Unlock()
			return nil
		case Dead:
			g.mu.Unlock()
			return ErrDead
		}
		change := g.changed()
		g.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leave ends an effect that Enter began.
func (g *Gate) Leave() {
	g.mu.Lock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
	g.mu.Unlock()
}

// Pass runs one effect inside the gate.
func (g *Gate) Pass(ctx context.Context, effect func() error) error {
	if err := g.Enter(ctx); err != nil {
		return err
	}
	defer g.Leave()
	return effect()
}

// Kill makes every later effect fail and returns when none is inside.
func (g *Gate) Kill() { g.set(Dead) }

// Freeze makes every later effect wait and returns when none is inside, like SIGSTOP. A dead node stays dead.
func (g *Gate) Freeze() { g.set(Frozen) }

// Thaw lets a frozen node go on. A dead node stays dead.
func (g *Gate) Thaw() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == Frozen {
		g.state = Open
		g.signal()
	}
}

// Slow delays everything that connections behind the gate read by d, as an overloaded server would. 0 ends it.
func (g *Gate) Slow(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delay = d
}

// Delay returns what Slow has set.
func (g *Gate) Delay() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.delay
}

// Revive opens the gate of a dead or frozen node: a new process in its place.
func (g *Gate) Revive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = Open
	g.dead = nil
	g.delay = 0
	g.signal()
}

// Killed is closed once the gate is dead. After Revive a new channel is returned.
func (g *Gate) Killed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deadCh()
}

// Context returns a context that ends when the parent does or when the node is killed; then its cause is ErrDead.
func (g *Gate) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	dead := g.Killed()
	stop := make(chan struct{})
	go func() {
		select {
		case <-dead:
			cancel(ErrDead)
		case <-ctx.Done():
		case <-stop:
		}
	}()
	var once sync.Once
	return ctx, func() { once.Do(func() { close(stop) }); cancel(context.Canceled) }
}

func (g *Gate) set(s State) {
	g.mu.Lock()
	if g.state == Dead {
		g.mu.Unlock()
		return
	}
	g.state = s
	if s == Dead {
		close(g.deadCh())
	}
	g.signal()
	var wait chan struct{}
	if g.inside > 0 {
		if g.empty == nil {
			g.empty = make(chan struct{})
		}
		wait = g.empty
	}
	g.mu.Unlock()
	if wait != nil {
		<-wait
	}
}

func (g *Gate) signal() {
	if g.change != nil {
		close(g.change)
		g.change = nil
	}
}

func (g *Gate) changed() chan struct{} {
	if g.change == nil {
		g.change = make(chan struct{})
	}
	return g.change
}

func (g *Gate) deadCh() chan struct{} {
	if g.dead == nil {
		g.dead = make(chan struct{})
	}
	return g.dead
}
