package lb

import (
	"fmt"

	"github.com/tierkit/tierkit/internal/hooks"
	"github.com/tierkit/tierkit/internal/usercode"
)

// Hooks observe picks, results and states; each func may be nil. A panic of a hook is contained, logged and counted
// (Stats.CallbackFailures).
//
// State runs on a goroutine of its own, one call at a time and in the order of the changes. It may call any method of
// the balancer; Close does not wait for it. While one call does not return, up to 1024 later changes wait, and further
// ones are dropped and counted. The other hooks run on the goroutine of the request, which waits for them.
type Hooks struct {
	Picked func(b *Backend, attempt int)           // a backend was chosen; attempt counts from 0
	Done   func(b *Backend, r Result)              // an attempt ended
	State  func(b *Backend, from, to BackendState) // a backend changed its state
	Retry  func(from *Backend, err error)          // an attempt failed and another follows
	Hedge  func(from, to *Backend)                 // an attempt is slow and another goes out beside it
}

// JoinHooks returns hooks that call those of a, then those of b. Either may be nil.
func JoinHooks(a, b *Hooks) *Hooks {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &Hooks{
		Picked: hooks.Join2(a.Picked, b.Picked),
		Done:   hooks.Join2(a.Done, b.Done),
		State:  hooks.Join3(a.State, b.State),
		Retry:  hooks.Join2(a.Retry, b.Retry),
		Hedge:  hooks.Join2(a.Hedge, b.Hedge),
	}
}

// call runs a function of the user on the goroutine of the request and contains its panic. The caller gives back what
// it holds in a deferred function, since f may end the goroutine.
func (b *Balancer) call(name string, f func()) error {
	err := usercode.Call(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		b.callbackFailed(err)
	}
	return err
}

// callbackFailed counts and logs a function of the user that panicked, or that was not called because another call does
// not return.
func (b *Balancer) callbackFailed(err error) {
	b.callbacks.Add(err)
	b.log.Warn("callback", "lb: a callback failed", "error", err)
}

// stateChanged queues a call of Hooks.State. It never blocks; b.mu is held.
func (b *Balancer) stateChanged(be *Backend, from, to BackendState) {
	if b.o.Hooks == nil || b.o.Hooks.State == nil {
		return
	}
	if !b.states.Add(func() { b.o.Hooks.State(be, from, to) }) {
		b.callbackFailed(fmt.Errorf("Hooks.State: too many calls wait, dropped %s: %s to %s", be.id, from, to))
	}
}
