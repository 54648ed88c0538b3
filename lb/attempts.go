package lb

import (
	"context"
	"errors"
	"fmt"
)

// errDiscarded is the error of an attempt whose answer was discarded in favor of another attempt.
var errDiscarded = errors.New("lb: the backend's answer was discarded to try another backend")

// Attempts are the tries of one request, each on another backend. [Balancer.Attempts] starts them. The handler, the
// round tripper, the front and the TCP server all run this loop, so Attempts alone decides whether a request is tried
// again:
//
//	a := b.Attempts(key)
//	for a.Next(ctx) {
//		res, err := send(a.Pick.Backend())
//		a.Pick.Done(lb.Result{Err: err})
//		if err == nil || !a.Again(err, safe) {
//			break
//		}
//	}
//
// One goroutine may use an Attempts at a time.
type Attempts struct {
	Pick Pick  // the attempt at hand; the caller ends it with Done or Cancel
	Err  error // why the last attempt failed, or why Next found no backend

	b     *Balancer
	key   Key
	tried tried
	last  bool // Retry.Max allows no attempt after this one
}

// Attempts starts the attempts of one request with key k.
func (b *Balancer) Attempts(k Key) Attempts { return Attempts{b: b, key: k} }

// Next picks the backend of the next attempt, which is none of those that were tried before. It waits as
// [Balancer.Pick] does. Without a backend it returns false, and Err says why: the failure of the attempt before, or the
// error that Balancer.Pick would return.
func (a *Attempts) Next(ctx context.Context) bool {
	p, err := a.b.pick(ctx, a.key, &a.tried)
	if err != nil {
		if a.Err == nil || !errors.Is(err, ErrNoBackend) {
			a.Err = err
		}
		return false
	}
	a.Pick, a.last = p, a.tried.len() >= a.b.o.Retry.Max
	return true
}

// Again reports whether the request is tried again after an attempt that failed with err, and pays for it from
// Retry.Budget. safe says that sending the request a second time does no harm: it was not sent, or it is idempotent,
// its body can be sent again and no byte of an answer was passed on.
func (a *Attempts) Again(err error, safe bool) bool {
	a.Err = err
	if !safe || a.last {
		return false
	}
	if !a.b.budget.spend() {
		a.b.noRetry.Add(1)
		a.b.log.Warn("budget", "lb: the retry budget is used up", "error", err)
		return false
	}
	a.b.retries.Add(1)
	if h := a.b.o.Hooks; h != nil && h.Retry != nil {
		be := a.Pick.b
		a.b.call("Hooks.Retry", func() { h.Retry(be, err) })
	}
	a.tried.add(a.Pick.b)
	return true
}

// Failure returns Err, with the backend that it is of.
func (a *Attempts) Failure() error {
	if a.Err == nil || a.Pick.b == nil {
		return a.Err
	}
	return fmt.Errorf("backend %q: %w", a.Pick.b.id, a.Err)
}

// Discards decides whether an answer with this status is dropped for another attempt: Retry.Statuses lists the status,
// another attempt is allowed and safe, and a backend is left that was not tried. It returns nil to pass the answer on,
// and otherwise the error to call Again with.
func (a *Attempts) Discards(status int, safe bool) error {
	if safe && !a.last && a.b.retriesStatus(status) && a.tried.len()+1 < len(a.b.snap.Load().usable) {
		return errDiscarded
	}
	return nil
}

// retriesStatus reports whether Retry.Statuses lists status.
func (b *Balancer) retriesStatus(status int) bool {
	for _, s := range b.o.Retry.Statuses {
		if s == status {
			return true
		}
	}
	return false
}

// tried are the backends on which one request has failed. They are few, so has searches them one by one, and the
// first four need no allocation. A copy is independent of the original, and nil holds none.
type tried struct {
	n    int
	few  [4]*Backend
	more []*Backend
}

func (t *tried) len() int {
	if t == nil {
		return 0
	}
	return t.n
}

func (t *tried) has(b *Backend) bool {
	if t == nil {
		return false
	}
	for _, x := range t.few[:min(t.n, len(t.few))] {
		if x == b {
			return true
		}
	}
	for _, x := range t.more {
		if x == b {
			return true
		}
	}
	return false
}

func (t *tried) add(b *Backend) {
	if t.n < len(t.few) {
		t.few[t.n] = b
	} else {
		t.more = append(t.more[:len(t.more):len(t.more)], b) // a copy may share the array
	}
	t.n++
}
