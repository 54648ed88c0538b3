package rediscache

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// maxAbandoned bounds what is remembered of an outage. What is forgotten ends with its Lease.
const maxAbandoned = 4096

// abandoned is a lease that nobody will fill: its Fetch or its Release got no answer, though the server may have
// executed it, then or later. Without a word from here everybody would wait for the key until Options.Lease ends.
type abandoned struct{ key, lease string }

func (r *Remote) abandon(leases ...abandoned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.abandoned = append(r.abandoned, leases...)
	if over := len(r.abandoned) - maxAbandoned; over > 0 {
		r.abandoned = append([]abandoned(nil), r.abandoned[over:]...)
	}
}

// takeAbandoned is called before the server is asked whether it answers: what was sent before that, it has read by
// then.
func (r *Remote) takeAbandoned() []abandoned {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.abandoned
	r.abandoned = nil
	return all
}

// hand passes leases to giveUp, unless it is busy.
func (r *Remote) hand(all []abandoned) bool {
	if len(all) == 0 {
		return true
	}
	select {
	case r.answers <- all:
		return true
	default:
		return false
	}
}

// giveUp releases the abandoned leases that it is sent, until ctx ends. It has a goroutine of its own so that it cannot
// delay a renewal.
func (r *Remote) giveUp(ctx context.Context) {
	defer r.tasks.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case all := <-r.answers:
			for len(all) > 0 && ctx.Err() == nil {
				some := all[:min(len(all), manyAtOnce)]
				_, err := r.pipeline(ctx, release, len(some), func(p redis.Pipeliner, i int) *redis.Cmd {
					return release.EvalSha(ctx, p, r.keys(some[i].key), some[i].lease)
				})
				if err != nil {
					r.abandon(all...)
					break
				}
				all = all[len(some):]
			}
		}
	}
}
