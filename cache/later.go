package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// later runs at most one load per key at a time, like a flight, but a caller only gets the result of a load that began after the caller had
// come: it joins the next one, not the one under way. Nobody reads a value that was old when they asked, also when no invalidation can be trusted
// to arrive, and the source still sees one load per key at a time.
type later[K comparable, V any] struct {
	mu   sync.Mutex
	keys map[K]*queueOf[V]
}

type queueOf[V any] struct {
	next *flight[V] // not begun; nil: nobody waits
}

func (l *later[K, V]) do(ctx context.Context, k K, load func(context.Context, K) (V, error), timeout time.Duration) (v V, err error) {
	l.mu.Lock()
	q, running := l.keys[k]
	if !running {
		q = &queueOf[V]{}
		if l.keys == nil {
			l.keys = map[K]*queueOf[V]{}
		}
		l.keys[k] = q
	}
	if q.next == nil {
		q.next = &flight[V]{done: make(chan struct{})}
	}
	f := q.next
	l.mu.Unlock()
	if !running {
		go l.run(context.WithoutCancel(ctx), k, q, load, timeout)
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// run loads for as long as somebody waits.
func (l *later[K, V]) run(ctx context.Context, k K, q *queueOf[V], load func(context.Context, K) (V, error), timeout time.Duration) {
	idle := false
	defer func() {
		if !idle { // the loader has ended this goroutine (runtime.Goexit): others wait
			go l.run(ctx, k, q, load, timeout)
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
		l.once(ctx, k, f, load, timeout)
	}
}

func (l *later[K, V]) once(ctx context.Context, k K, f *flight[V], load func(context.Context, K) (V, error), timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer close(f.done)
	f.err = errors.New("cache: loader ended without a result")
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("cache: loader panicked: %v", p)
		}
	}()
	f.value, f.err = load(ctx, k)
}
