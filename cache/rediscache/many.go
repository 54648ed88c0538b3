package rediscache

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
)

// manyAtOnce bounds the keys of one script, during which the server does nothing else.
const manyAtOnce = 500

// fetchAll is fetch of many keys in one script, for a server that is not a cluster. KEYS: values, then leases. ARGV:
// milliseconds, then leases.
var fetchAll = redis.NewScript(`
local n = #KEYS / 2
local values = redis.call('MGET', unpack(KEYS, 1, n))
local out = {}
for i = 1, n do
  if values[i] then
    out[i] = {values[i], redis.call('PTTL', KEYS[i])}
  elseif redis.call('SET', KEYS[n + i], ARGV[1 + i], 'NX', 'PX', ARGV[1]) or redis.call('GET', KEYS[n + i]) == ARGV[1 + i] then
    out[i] = {1}
  else
    out[i] = {0}
  end
end
return out
`)

// FetchMany implements [cache.RemoteMany]: one round trip for 500 keys, or one per node of a cluster.
func (r *Remote) FetchMany(ctx context.Context, keys []string) (out []cache.Fetched, err error) {
	leases := make([]string, len(keys))
	for i := range leases {
		leases[i] = r.id + strconv.FormatUint(r.seq.Add(1), 36)
	}
	defer func() {
		if err != nil {
			for i, key := range keys {
				r.abandon(abandoned{key, leases[i]})
			}
		}
	}()
	if _, one := r.client.(*redis.Client); one && len(keys) > 0 {
		return r.fetchAll(ctx, keys, leases)
	}
	cmds, err := r.pipeline(ctx, fetch, len(keys), func(p redis.Pipeliner, i int) *redis.Cmd {
		return fetch.EvalSha(ctx, p, r.keys(keys[i]), leases[i], r.o.Lease.Milliseconds())
	})
	if err != nil {
		return nil, fmt.Errorf("rediscache: fetch: %w", err)
	}
	out = make([]cache.Fetched, len(keys))
	for i, c := range cmds {
		res, err := c.Slice()
		if err != nil {
			return nil, fmt.Errorf("rediscache: fetch: %w", err)
		}
		out[i] = fetched(res, leases[i])
	}
	return out, nil
}

func (r *Remote) fetchAll(ctx context.Context, keys, leases []string) ([]cache.Fetched, error) {
	chunks := (len(keys) + manyAtOnce - 1) / manyAtOnce
	cmds, err := r.pipeline(ctx, fetchAll, chunks, func(p redis.Pipeliner, c int) *redis.Cmd {
		first, end := c*manyAtOnce, min(len(keys), (c+1)*manyAtOnce)
		n := end - first
		names := make([]string, 2*n)
		args := make([]any, 1+n)
		args[0] = r.o.Lease.Milliseconds()
		for i := range n {
			k := r.keys(keys[first+i])
			names[i], names[n+i] = k[0], k[1]
			args[1+i] = leases[first+i]
		}
		return fetchAll.EvalSha(ctx, p, names, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("rediscache: fetch: %w", err)
	}
	out := make([]cache.Fetched, 0, len(keys))
	for _, c := range cmds {
		all, err := c.Slice()
		if err != nil {
			return nil, fmt.Errorf("rediscache: fetch: %w", err)
		}
		for _, one := range all {
			res, ok := one.([]any)
			if !ok || len(res) == 0 || len(out) == len(keys) {
				return nil, fmt.Errorf("rediscache: fetch: unexpected answer %v", one)
			}
			out = append(out, fetched(res, leases[len(out)]))
		}
	}
	if len(out) != len(keys) {
		return nil, fmt.Errorf("rediscache: fetch: %d answers for %d keys", len(out), len(keys))
	}
	return out, nil
}

// FillMany implements [cache.RemoteMany].
func (r *Remote) FillMany(ctx context.Context, keys []string, filled []cache.Filled, ttl time.Duration) (out []bool,
	err error) {
	defer func() {
		if err != nil {
			for i, key := range keys { // what was filled has no lease any more
				r.abandon(abandoned{key, filled[i].Lease})
			}
		}
	}()
	cmds, err := r.pipeline(ctx, fill, len(keys), func(p redis.Pipeliner, i int) *redis.Cmd {
		if filled[i].Value == nil {
			return release.Eval(ctx, p, r.keys(keys[i]), filled[i].Lease)
		}
		return fill.EvalSha(ctx, p, r.keys(keys[i]), filled[i].Lease, filled[i].Value, ttlMS(ttl))
	})
	if err != nil {
		return nil, fmt.Errorf("rediscache: fill: %w", err)
	}
	out = make([]bool, len(keys))
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
func (r *Remote) pipeline(ctx context.Context, s *redis.Script, n int,
	cmd func(redis.Pipeliner, int) *redis.Cmd) (cmds []*redis.Cmd, err error) {
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
