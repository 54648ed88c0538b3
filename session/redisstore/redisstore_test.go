package redisstore_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/testserver"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/redisstore"
	"github.com/tierkit/tierkit/session/sessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, addr string) *redisstore.Store {
	c := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { c.Close() })
	s, err := redisstore.New(c, redisstore.Options{})
	require.NoError(t, err)
	return s
}

func TestMiniredis(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	sessiontest.Run(t, func(t *testing.T) session.Store { return open(t, addr) })
}

func TestRedis(t *testing.T) {
	addr := testserver.Redis(t).Addr()
	sessiontest.Run(t, func(t *testing.T) session.Store { return open(t, addr) })
}
