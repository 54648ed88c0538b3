package session

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/redisstore"
)

// BenchmarkRedisRead is a request that reads its session, which has an idle timeout, from Redis: 32 requests at a time
// over 16 connections. The limit is one GET of as many bytes.
func BenchmarkRedisRead(b *testing.B) {
	server := testserver.Redis(b)
	c := redis.NewClient(&redis.Options{Addr: server.Addr(), PoolSize: 16, MinIdleConns: 16, MaxRetries: -1})
	b.Cleanup(func() { c.Close() })
	many := func(b *testing.B, h http.Handler, path string, ck *http.Cookie) {
		b.SetParallelism(16)
		defer cpu(b)()
		serve(b, h, path, ck)
	}
	b.Run("tierkit", func(b *testing.B) {
		store, err := redisstore.New(c, redisstore.Options{})
		if err != nil {
			b.Fatal(err)
		}
		h := oursOn(b, store, session.Options{})
		many(b, h, "/", login(b, h))
	})
	b.Run("scs-idle", func(b *testing.B) {
		h := theirsOn(goredisstore.New(c), true)
		many(b, h, "/", login(b, h))
	})
	b.Run("scs-no-idle", func(b *testing.B) {
		h := theirsOn(goredisstore.New(c), false)
		many(b, h, "/", login(b, h))
	})
	b.Run("limit", func(b *testing.B) {
		if err := c.Set(context.Background(), "raw", make([]byte, 100), time.Hour).Err(); err != nil {
			b.Fatal(err)
		}
		many(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v, err := c.Get(r.Context(), "raw").Bytes()
			if err != nil {
				b.Error(err)
			}
			_, _ = w.Write(v[:3])
		}), "/", nil)
	})
}
