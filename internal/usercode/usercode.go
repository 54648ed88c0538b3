// Package usercode calls functions that users gave us in such a way that they cannot hold us up or bring us down: a
// panic becomes an error, a function that ignores its deadline is left behind, and notifications run in order on a
// goroutine of their own.
package usercode

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// Panic is the error that stands for a panic of a user's function.
type Panic struct {
	Value any    // what the function panicked with
	Stack []byte // the stack of its goroutine
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap returns the value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// ErrExited is the error of a function that ended its goroutine with runtime.Goexit, as testing.T.FailNow does.
var ErrExited = errors.New("the function ended its goroutine")

// Call runs f on the calling goroutine and returns its panic as a *Panic. It is for paths that cannot afford a
// goroutine; it cannot stop runtime.Goexit, so the caller must give back what it holds in a deferred function.
func Call(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{v, debug.Stack()}
		}
	}()
	f()
	return nil
}

// Run runs f on a goroutine of its own and waits for its end. A panic is returned as a *Panic, runtime.Goexit as
// ErrExited.
func Run(f func() error) error {
	done := make(chan error, 1)
	go run(f, done)
	return <-done
}

// Within runs f on a goroutine of its own and returns what it returns, or the cause of ctx once ctx has ended,
// whichever is first. left is closed when f has returned: a caller that got the error of ctx keeps it, so that it does
// not start f again while the first call still runs.
func Within(ctx context.Context, f func(context.Context) error) (left <-chan struct{}, err error) {
	done := make(chan error, 1)
	end := make(chan struct{})
	go func() {
		defer close(end)
		run(func() error { return f(ctx) }, done)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done: // it returned in time, but the deadline was looked at first
		default:
			err = context.Cause(ctx)
		}
	}
	return end, err
}

func run(f func() error, done chan<- error) {
	err := ErrExited
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{v, debug.Stack()}
		}
		done <- err
	}()
	err = f()
}

// Serial runs functions one at a time, in the order in which they were added, on a goroutine that lives only while
// there is something to run. The zero value is ready. Its methods are safe for concurrent use and may be called by the
// functions themselves.
type Serial struct {
	// Failed, if set, is called with each *Panic or ErrExited.
	Failed func(error)
	// Limit bounds the waiting functions; beyond it Add refuses. Zero means 1024.
	Limit int

	mu      sync.Mutex
	waiting []func()
	running bool
	idle    chan struct{} // closed when running ends; nil while nobody waits for that
}

// Add queues f and returns at once. It returns false, and does not queue f, if Limit functions wait already: the one
// that runs does not return, or is slower than what happens.
func (s *Serial) Add(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.Limit
	if limit == 0 {
		limit = 1024
	}
	if len(s.waiting) >= limit {
		return false
	}
	s.waiting = append(s.waiting, f)
	if !s.running {
		s.running = true
		go s.work()
	}
	return true
}

func (s *Serial) work() {
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.waiting, s.running = nil, false
			if s.idle != nil {
				close(s.idle)
				s.idle = nil
			}
			s.mu.Unlock()
			return
		}
		f := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		if err := Run(func() error { f(); return nil }); err != nil && s.Failed != nil {
			s.Failed(err)
		}
	}
}

// Wait waits until nothing runs and nothing waits, or ctx ends, and returns the error of ctx then. Do not call it from
// a function that the Serial runs.
func (s *Serial) Wait(ctx context.Context) error {
	s.mu.Lock()
	if !s.running {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
