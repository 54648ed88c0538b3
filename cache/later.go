package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// later runs at most one load per key at a time, like a flight, but a caller only gets the result of a load that began
// after the caller had come: it joins the next one, not the one under way. Nobody reads a value that was old when they
// asked, also when no invalidation can be trusted to arrive, and the source still sees one load per key at a time.
type later[K comparable, V any] struct {
	mu   sync.Mutex
	keys map[K]*queueOf[K, V]
}

type queueOf[K comparable, V any] struct {
	next *waited[K, V] // not begun; nil: nobody waits
}

// waited is a flight with the loader of the first who waits for it: those of earlier ones may not work any more.
type waited[K comparable, V any] struct {
	flight[V]
	ctx  context.Context
	load func(context.Context, K) (V, error)
}

func (l *later[K, V]) do(ctx context.Context, k K, load func(context.Context, K) (V, error),
	timeout time.Duration) (v V, err error) {
	l.mu.Lock()
	q, running := l.keys[k]
	if !running {
		q = &queueOf[K, V]{}
		if l.keys == nil {
			l.keys = map[K]*queueOf[K, V]{}
		}
		l.keys[k] = q
	}
	if q.next == nil {
		q.next = &waited[K, V]{flight: flight[V]{done: make(chan struct{})}, ctx: context.WithoutCancel(ctx),
			load: load}
	}
	f := q.next
	l.mu.Unlock()
	if !running {
		go l.run(k, q, timeout)
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// run loads for as long as somebody waits.
func (l *later[K, V]) run(k K, q *queueOf[K, V], timeout time.Duration) {
	idle := false
	defer func() {
		if !idle { // the loader has ended this goroutine (runtime.Goexit): others wait
			go l.run(k, q, timeout)
		}
	}()
	for {
		l.mu.Lock()
		f := q.next
		q.next = nil
		if f == nil {
			delete(l.keys, k)
			l.mu.Unlock()
			idle = true
			return
		}
		l.mu.Unlock()
		l.once(k, f, timeout)
	}
}

func (l *later[K, V]) once(k K, f *waited[K, V], timeout time.Duration) {
	ctx, cancel := context.WithTimeout(f.ctx, timeout)
	defer cancel()
	defer close(f.done)
	f.err = errors.New("cache: loader ended without a result")
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("cache: loader panicked: %v", p)
		}
	}()
	f.value, f.err = f.load(ctx, k)
}
