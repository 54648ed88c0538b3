package rediscache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
)

// Three servers and a small one that stands in for any of them.
func Example_manyServers() {
	var closers []func()
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}()
	connect := func() *rediscache.Remote {
		server := miniredis.NewMiniRedis() // in place of a real one
		if err := server.Start(); err != nil {
			log.Fatal(err)
		}
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		remote, err := rediscache.New(client, rediscache.Options{})
		if err != nil {
			log.Fatal(err)
		}
		closers = append(closers, server.Close, func() { _ = client.Close() }, func() { _ = remote.Close() })
		return remote
	}
	servers := map[string]cache.Remote{"cache-1": connect(), "cache-2": connect(), "cache-3": connect()}
	ring, err := cache.NewRing(cache.RingOptions{Servers: servers, Gutter: connect()})
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Close()
	near, err := cache.New(cache.Options[string, string]{TTL: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer near.Close()
	users, err := cache.NewTiered(near, ring, cache.TieredOptions[string, string]{})
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()
	name, err := users.Load(context.Background(), "42", func(context.Context, string) (string, error) {
		return "Ada", nil
	})
	fmt.Println(name, err, ring.Stats().Servers)
	// Output: Ada <nil> 3
}
