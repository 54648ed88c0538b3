package rediscache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

// patience is how long a test waits for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

// A server that does not answer in time still executes what it was sent, and so grants leases to nobody. They are
// released when it answers again, long before they end; so are those whose Release got no answer.
func TestAbandonedLeases(t *testing.T) {
	server := testserver.Redis(t)
	o := rediscache.Options{Lease: time.Hour, Timeout: 300 * time.Millisecond}
	a, b := newNode(t, server.Addr(), o), newNode(t, server.Addr(), o)
	hold := func(key string) (held cache.Fetched) {
		require.Eventually(t, func() (ok bool) { // a busy machine may need more than one attempt
			var err error
			held, err = a.remote.Fetch(t.Context(), key)
			return err == nil && held.Lease != ""
		}, patience, time.Millisecond)
		return held
	}
	held, unfilled := hold("released"), hold("filled")
	keys := []string{"fetched", "released", "filled"}
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("many", i))
	}
	keys = append(keys, many...)

	server.Freeze()
	_, err := a.remote.Fetch(t.Context(), "fetched")
	require.Error(t, err)
	_, err = a.remote.FetchMany(t.Context(), many)
	require.Error(t, err)
	require.Error(t, a.remote.Release(t.Context(), "released", held.Lease))
	ended, cancel := context.WithCancel(t.Context())
	cancel() // before it is sent
	_, err = a.remote.Fill(ended, "filled", unfilled.Lease, []byte("v"), time.Hour)
	require.Error(t, err)
	server.Thaw()

	for _, k := range keys {
		require.Eventually(t, func() bool {
			got, err := b.remote.Fetch(t.Context(), k)
			return err == nil && got.Lease != ""
		}, patience, 2*time.Millisecond, k)
	}
}

// sendTwice is a client's connection that loses the first answer to a script, so that the client sends it again.
type sendTwice struct{}

func (sendTwice) DialHook(next redis.DialHook) redis.DialHook { return next }
func (sendTwice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			_ = next(ctx, cmd)
		}
		return next(ctx, cmd)
	}
}
func (sendTwice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		_ = next(ctx, cmds)
		return next(ctx, cmds)
	}
}

// A client that sends a Fetch again finds its own lease, and has it.
func TestFetchSentAgain(t *testing.T) {
	both(t, func(t *testing.T, addr string) {
		c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		defer c.Close()
		c.AddHook(sendTwice{})
		r, err := rediscache.New(c, rediscache.Options{Timeout: patience})
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close()) }()
		keys := []string{"a", "b", "c"}
		for range 2 { // the first time the server does not know the scripts
			got, err := r.Fetch(t.Context(), keys[0])
			require.NoError(t, err)
			require.NotEmpty(t, got.Lease)
			require.NoError(t, r.Release(t.Context(), keys[0], got.Lease))
			all, err := r.FetchMany(t.Context(), keys)
			require.NoError(t, err)
			for i, got := range all {
				require.NotEmpty(t, got.Lease)
				require.NoError(t, r.Release(t.Context(), keys[i], got.Lease))
			}
		}
	})
}
