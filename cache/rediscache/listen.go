package rediscache

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/internal/backoff"
)

// listen applies invalidations in the order of their arrival.
func (r *Remote) listen(ctx context.Context) {
	defer r.tasks.Done()
	failures := 0
	for ctx.Err() == nil {
		m, err := r.sub.ReceiveTimeout(ctx, r.o.Confirm)
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				// nothing was said; renew speaks more often, so the connection is slow or dead, and trust runs out by
				// itself
				continue
			}
			if ctx.Err() != nil || errors.Is(err, redis.ErrClosed) {
				return
			}
			r.trusted.Store(0)
			_ = backoff.Sleep(ctx, backoff.Policy{Base: 5 * time.Millisecond,
				Max: 250 * time.Millisecond}.Delay(failures))
			failures++
			continue
		}
		failures = 0
		switch m := m.(type) {
		case *redis.Subscription: // at the start, and after every reconnection: messages may have been missed
			r.trusted.Store(0)
			for _, w := range r.all() {
				w.flush()
			}
		case *redis.Message:
			r.receive(ctx, m)
		case *redis.Pong:
			r.confirm(m.Payload)
		}
	}
}

func (r *Remote) all() []watcher {
	r.mu.Lock()
	defer r.mu.Unlock()
	ws := make([]watcher, 0, len(r.watchers))
	for _, w := range r.watchers {
		ws = append(ws, w)
	}
	return ws
}

func (r *Remote) receive(ctx context.Context, m *redis.Message) {
	if m.Channel == r.acks(r.id) {
		if id, node, ok := strings.Cut(m.Payload, "|"); ok {
			r.ack(id, node)
		}
		return
	}
	origin, rest, ok := strings.Cut(m.Payload, "|")
	id, key, ok2 := strings.Cut(rest, "|")
	if !ok || !ok2 {
		return
	}
	for _, w := range r.all() {
		w.drop(key)
	}
	if origin == r.id {
		r.ack(id, r.id)
		return
	}
	// Not on the subscription's connection, and not waited for here: an acknowledgement that is lost costs its asker
	// the rest of our registration.
	ctx, cancel := r.bound(ctx)
	defer cancel()
	_ = r.client.Publish(ctx, r.acks(origin), id+"|"+r.id).Err()
}

func (r *Remote) ack(id, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.waits[id]; w != nil {
		w.acked[node] = true
		select {
		case w.moved <- struct{}{}:
		default:
		}
	}
}

// renew registers this process and asks for confirmation over the subscription's connection, five times per Confirm.
func (r *Remote) renew(ctx context.Context) {
	defer r.tasks.Done()
	tick := time.NewTicker(r.o.Confirm / 5)
	defer tick.Stop()
	for {
		began := time.Since(r.start)
		unfilled := r.takeAbandoned()
		rctx, cancel := context.WithTimeout(ctx, r.o.Confirm)
		err := register.Run(rctx, r.client, []string{r.nodes()}, r.id, r.o.Confirm.Milliseconds()).Err()
		cancel()
		if err == nil {
			// The registration ends later than began + Confirm, on any clock: it was made after began.
			_ = r.sub.Ping(ctx, strconv.FormatInt(int64(began), 10))
		}
		if err != nil || !r.hand(unfilled) {
			r.abandon(unfilled...)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// confirm is called with what renew sent: everything published before that has arrived.
func (r *Remote) confirm(payload string) {
	began, err := strconv.ParseInt(payload, 10, 64)
	if err != nil {
		return
	}
	if until := began + int64(r.o.Confirm); until > r.trusted.Load() {
		r.mu.Lock()
		if !r.closed {
			r.trusted.Store(until)
		}
		r.mu.Unlock()
	}
}
