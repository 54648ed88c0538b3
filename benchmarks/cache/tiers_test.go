package cache

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// BenchmarkNear compares a hit that invalidations keep right with a hit of the same cache alone, and Load with Get.
func BenchmarkNear(b *testing.B) {
	server := testserver.Redis(b)
	near := func(b *testing.B) *cache.Cache[string, string] {
		c, err := cache.New(cache.Options[string, string]{TTL: time.Hour})
		check(err)
		b.Cleanup(func() { check(c.Close()) })
		return c
	}
	tiered := func(b *testing.B, remote cache.Remote) *cache.Tiered[string, string] {
		t, err := cache.NewTiered(near(b), remote, cache.TieredOptions[string, string]{})
		check(err)
		b.Cleanup(func() { check(t.Close()) })
		for end := time.Now().Add(30 * time.Second); !remote.Trusted(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				b.Fatal("not trusted")
			}
		}
		return t
	}
	ctx := context.Background()
	names := make([]string, 1024)
	for i := range names {
		names[i] = "user:" + strconv.Itoa(i)
	}
	load := func(_ context.Context, k string) (string, error) { return k, nil }
	run := func(b *testing.B, get func(k string) bool) {
		for _, k := range names {
			get(k)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if !get(names[i&1023]) {
				b.Fatal("lost")
			}
		}
	}
	b.Run("l1-get", func(b *testing.B) {
		c := near(b)
		for _, k := range names {
			c.Set(k, k)
		}
		run(b, func(k string) bool { _, ok := c.Get(k); return ok })
	})
	b.Run("l1-load", func(b *testing.B) {
		c := near(b)
		run(b, func(k string) bool { _, err := c.Load(ctx, k, load); return err == nil })
	})
	b.Run("tiered", func(b *testing.B) {
		t := tiered(b, connect(b, server.Addr()))
		run(b, func(k string) bool { _, err := t.Load(ctx, k, load); return err == nil })
	})
	b.Run("ring-of-3", func(b *testing.B) {
		servers := map[string]cache.Remote{"a": connect(b, server.Addr()), "b": connect(b, testserver.Redis(b).Addr()),
			"c": connect(b, testserver.Redis(b).Addr())}
		r, err := cache.NewRing(cache.RingOptions{Servers: servers})
		check(err)
		b.Cleanup(func() { check(r.Close()) })
		t := tiered(b, r)
		run(b, func(k string) bool { _, err := t.Load(ctx, k, load); return err == nil })
	})
}

func connect(b *testing.B, addr string) *rediscache.Remote {
	c := redis.NewClient(&redis.Options{Addr: addr})
	r, err := rediscache.New(c, rediscache.Options{})
	check(err)
	b.Cleanup(func() {
		check(r.Close())
		check(c.Close())
	})
	return r
}

// BenchmarkRedis compares 100 keys in one round trip with 1 key, with the bare command, and with 100 round trips.
func BenchmarkRedis(b *testing.B) {
	server := testserver.Redis(b)
	r := connect(b, server.Addr())
	c := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer c.Close()
	ctx := context.Background()
	names := make([]string, 100)
	bare := make([]string, 100)
	for i := range names {
		names[i], bare[i] = "user:"+strconv.Itoa(i), "bare:"+strconv.Itoa(i)
		check(r.Set(ctx, names[i], []byte("a value of some bytes"), time.Hour))
		check(c.Set(ctx, bare[i], "a value of some bytes", time.Hour).Err())
	}
	b.Run("fetch-1", func(b *testing.B) {
		for b.Loop() {
			got, err := r.Fetch(ctx, names[0])
			check(err)
			if got.Value == nil {
				b.Fatal("lost")
			}
		}
	})
	b.Run("fetch-100", func(b *testing.B) {
		for b.Loop() {
			got, err := r.FetchMany(ctx, names)
			check(err)
			for _, f := range got {
				if f.Value == nil {
					b.Fatal("lost")
				}
			}
		}
	})
	b.Run("fetch-1-x-100", func(b *testing.B) {
		for b.Loop() {
			for _, k := range names {
				_, err := r.Fetch(ctx, k)
				check(err)
			}
		}
	})
	b.Run("bare-get", func(b *testing.B) {
		for b.Loop() {
			check(c.Get(ctx, bare[0]).Err())
		}
	})
	b.Run("bare-mget-100", func(b *testing.B) {
		for b.Loop() {
			check(c.MGet(ctx, bare...).Err())
		}
	})
	// GET and PTTL in one script are what a lease needs: compare with 100 GETs
	b.Run("bare-pipeline-100", func(b *testing.B) {
		for b.Loop() {
			_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, k := range bare {
					p.Get(ctx, k)
				}
				return nil
			})
			check(err)
		}
	})
}
