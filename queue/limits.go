package queue

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Limits bound what one customer, tenant or other key may take of a pool, so that a key with a million messages does
// not keep the others waiting. What is over a limit goes back to the queue for a while, without using up an attempt,
// and messages of other keys are handled meanwhile. The limits are this pool's: N processes with a pool each allow N
// times as much.
type Limits struct {
	// Key says whose a message is; "" is not limited. Nil is Message.Key.
	Key func(*Delivery) string
	// Concurrency is how many messages of a key are handled at once. 0: no limit.
	Concurrency int
	// Rate is how many messages of a key are begun per second, on average; 0: no limit.
	Rate float64
	// Burst is how many may begin at once when none did for a while. Default 1.
	Burst int
}

func (l *Limits) check() error {
	if l.Concurrency < 0 || l.Rate < 0 || l.Burst < 0 {
		return fmt.Errorf("queue: PoolOptions.Limits has a negative value")
	}
	return nil
}

func (l *Limits) any() bool { return l.Concurrency > 0 || l.Rate > 0 }

// limiter holds the keys that are in use.
type limiter struct {
	Limits
	mu   sync.Mutex // guards keys
	keys map[string]*limited
}

// limited is one key.
type limited struct {
	running int
	// conforms is when the next may begin (the theoretical arrival time of the generic cell rate algorithm, ITU-T
	// I.371).
	conforms time.Time
	turned   uint // away since the last one that was let in
}

func newLimiter(l Limits) *limiter {
	if l.Key == nil {
		l.Key = func(d *Delivery) string { return d.Message.Key }
	}
	l.Burst = max(1, l.Burst)
	return &limiter{Limits: l, keys: map[string]*limited{}}
}

// wait for a key that is busy: short at first, for the worker that is about to be done.
var busyWait = backoff.Policy{Base: 20 * time.Millisecond, Max: 2 * time.Second}

// admit takes the message in, or says after which time it should be asked again.
func (l *limiter) admit(key string, now time.Time) (ok bool, wait time.Duration) {
	if key == "" {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	if k == nil {
		if len(l.keys) >= 10_000 {
			l.forget(now)
		}
		k = &limited{}
		l.keys[key] = k
	}
	if l.Concurrency > 0 && k.running >= l.Concurrency {
		k.turned++
		return false, busyWait.Delay(bits.Len(k.turned))
	}
	if l.Rate > 0 {
		gap := time.Duration(float64(time.Second) / l.Rate)
		if early := k.conforms.Add(-gap * time.Duration(l.Burst-1)).Sub(now); early > 0 {
			k.turned++
			return false, early + time.Duration(k.turned-1)*gap // those turned away before come first
		}
		if k.conforms.Before(now) {
			k.conforms = now
		}
		k.conforms = k.conforms.Add(gap)
	}
	k.turned = 0
	k.running++
	return true, 0
}

// forget drops keys that nothing is known of any more; l.mu is held.
func (l *limiter) forget(now time.Time) {
	for name, k := range l.keys {
		if k.running == 0 && !k.conforms.After(now) {
			delete(l.keys, name)
		}
	}
}

func (l *limiter) done(key string) {
	if key == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.keys[key]; k != nil {
		k.running--
	}
}

// within returns what the limits let in now, and gives the rest back. done must be called with the keys when it is
// handled.
func (p *Pool) within(ds []*Delivery) (in []*Delivery, keys []string) {
	if p.limits == nil {
		return ds, nil
	}
	now := time.Now()
	in = ds[:0]
	for _, d := range ds {
		key := p.limits.Key(d)
		ok, wait := p.limits.admit(key, now)
		if ok {
			in, keys = append(in, d), append(keys, key)
			continue
		}
		p.stats.limited.Add(1)
		_ = p.group.settleOne(context.Background(), d, Settlement{Verdict: Release, Delay: wait}) // else its lease ends
	}
	return in, keys
}
