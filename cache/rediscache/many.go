package rediscache

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
)

// FetchMany implements [cache.RemoteMany]: one round trip, or one per node of a cluster.
func (r *Remote) FetchMany(ctx context.Context, keys []string) ([]cache.Fetched, error) {
	leases := make([]string, len(keys))
	for i := range leases {
		leases[i] = r.id + strconv.FormatUint(r.seq.Add(1), 36)
	}
	cmds, err := r.pipeline(ctx, fetch, len(keys), func(p redis.Pipeliner, i int) *redis.Cmd {
		return fetch.EvalSha(ctx, p, r.keys(keys[i]), leases[i], r.o.Lease.Milliseconds())
	})
	if err != nil {
		return nil, fmt.Errorf("rediscache: fetch: %w", err)
	}
	out := make([]cache.Fetched, len(keys))
	for i, c := range cmds {
		res, err := c.Slice()
		if err != nil {
			return nil, fmt.Errorf("rediscache: fetch: %w", err)
		}
		out[i] = fetched(res, leases[i])
	}
	return out, nil
}

// FillMany implements [cache.RemoteMany].
func (r *Remote) FillMany(ctx context.Context, keys []string, filled []cache.Filled, ttl time.Duration) ([]bool, error) {
	cmds, err := r.pipeline(ctx, fill, len(keys), func(p redis.Pipeliner, i int) *redis.Cmd {
		if filled[i].Value == nil {
			return release.Eval(ctx, p, r.keys(keys[i]), filled[i].Lease)
		}
		return fill.EvalSha(ctx, p, r.keys(keys[i]), filled[i].Lease, filled[i].Value, ttlMS(ttl))
	})
	if err != nil {
		return nil, fmt.Errorf("rediscache: fill: %w", err)
	}
	out := make([]bool, len(keys))
	for i, c := range cmds {
		n, err := c.Int()
		if err != nil {
			return nil, fmt.Errorf("rediscache: fill: %w", err)
		}
		out[i] = n == 1
	}
	return out, nil
}

// pipeline runs n commands in one round trip, after loading the script if the server does not know it.
func (r *Remote) pipeline(ctx context.Context, s *redis.Script, n int, cmd func(redis.Pipeliner, int) *redis.Cmd) (cmds []*redis.Cmd, err error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	for range 2 {
		cmds = make([]*redis.Cmd, n)
		_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range n {
				cmds[i] = cmd(p, i)
			}
			return nil
		})
		if err == nil || !redis.HasErrorPrefix(err, "NOSCRIPT") {
			return cmds, err
		}
		if err = s.Load(ctx, r.client).Err(); err != nil {
			return nil, err
		}
	}
	return cmds, err
}
