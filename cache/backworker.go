package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/tierkit/tierkit/internal/backoff"
)

// work writes what is ready to the store, one key after the other, until Close.
func (b *Back[K, V]) work() {
	defer b.tasks.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	returned := false
	defer func() {
		if !returned { // the store has ended this goroutine (runtime.Goexit): another takes its place
			b.tasks.Add(1)
			go b.work()
		}
	}()
	for {
		for len(b.ready) == 0 {
			if b.closing {
				returned = true
				return
			}
			b.changed.Wait()
		}
		k := b.ready[0]
		b.ready = b.ready[1:]
		if w := b.pending[k]; w != nil {
			b.attempt(k, w)
		}
	}
}

// attempt writes a key; b.mu is held, and given up meanwhile.
func (b *Back[K, V]) attempt(k K, w *pendingWrite[V]) {
	w.writing = true
	version, value, deleted, until := w.version, w.value, w.deleted, b.epoch
	err := errors.New("cache: store ended without a result")
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.attempted(k, w, version, until, err)
	}()
	err = b.store1(k, value, deleted)
}

// attempted draws the conclusions; b.mu is held.
func (b *Back[K, V]) attempted(k K, w *pendingWrite[V], version, until uint64, err error) {
	defer b.changed.Broadcast()
	w.writing = false
	switch {
	case err == nil && w.version == version:
		b.stats.stored++
		delete(b.pending, k)
		if w.entry != 0 {
			b.log.journal.Settle(w.entry)
		}
	case err == nil: // written to meanwhile: the newer value goes next, and counts from now
		b.stats.stored++
		w.attempts, w.err, w.epoch = 0, nil, until+1
		b.schedule(k, w, max(0, b.o.Delay))
	default:
		b.stats.failures++
		w.attempts++
		w.err = err
		if b.closing { // the last attempt; with a journal it is pending again at the next open
			w.err = errors.Join(err, ErrClosed)
			delete(b.pending, k)
			b.parked[k] = w
			return
		}
		if b.o.Attempts > 0 && w.attempts >= b.o.Attempts && len(b.parked) < b.o.MaxParked {
			delete(b.pending, k)
			b.parked[k] = w
			if w.entry != 0 {
				b.log.journal.Note(w.entry, []byte(err.Error()))
			}
			return
		}
		b.schedule(k, w, backoff.Policy{Base: b.o.RetryBase, Max: b.o.RetryMax}.Delay(w.attempts-1))
	}
}

// store1 writes one value; a panic of the store is an error of this attempt.
func (b *Back[K, V]) store1(k K, v V, deleted bool) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.o.Timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cache: store panicked: %v", p)
		}
	}()
	if deleted {
		return b.store.Delete(ctx, k)
	}
	return b.store.Set(ctx, k, v)
}
