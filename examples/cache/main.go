// Command cache shows what a cache saves, what it does under a stampede, and two servers that share a second tier
// without ever serving a deleted value.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
)

type user struct {
	ID   int
	Name string
}

// database is the slow system of record.
type database struct {
	reads atomic.Int64
	name  atomic.Value
}

func (d *database) read(_ context.Context, id int) (user, error) {
	d.reads.Add(1)
	time.Sleep(2 * time.Millisecond)
	if id < 0 {
		return user{}, cache.ErrNotFound
	}
	return user{id, d.name.Load().(string)}, nil
}

func main() {
	addr := flag.String("redis", "", "second tier in the Redis at this address (default: a stand-in in this process)")
	requests := flag.Int("requests", 200_000, "requests to play")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"Plays requests against a slow database with and without caches.\n\nusage: cache [-requests N] [-redis HOST:PORT]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *requests < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*addr, *requests); err != nil {
		fmt.Fprintln(os.Stderr, "cache:", err)
		os.Exit(1)
	}
}

func run(addr string, requests int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db := &database{}
	db.name.Store("Ada")

	fmt.Printf("%d requests, zipf, 100,000 users, room for 5,000:\n", requests)
	for _, p := range []cache.Policy{cache.S3TK, cache.LRU, cache.LFU, cache.FIFO} {
		c, err := cache.New(cache.Options[int, user]{MaxEntries: 5_000, Policy: p})
		if err != nil {
			return err
		}
		z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.05, 1, 100_000)
		for range requests {
			id := int(z.Uint64())
			if _, ok := c.Get(id); !ok {
				c.Set(id, user{ID: id})
			}
		}
		s := c.Stats()
		fmt.Printf("  %-5s hit ratio %.1f %%\n", p, 100*float64(s.Hits)/float64(s.Hits+s.Misses))
		if err := c.Close(); err != nil {
			return err
		}
	}

	c, err := cache.New(cache.Options[int, user]{TTL: time.Minute, Jitter: 0.1, NegativeTTL: time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() { _, _ = c.Load(ctx, 42, db.read) })
	}
	wg.Wait()
	fmt.Printf("stampede: 1000 requests at once for one missing user: %d read of the database\n", db.reads.Load())

	if addr == "" {
		m, err := miniredis.Run()
		if err != nil {
			return err
		}
		defer m.Close()
		addr = m.Addr()
	}
	db.reads.Store(0)
	var servers []*cache.Tiered[int, user]
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer client.Close()
		remote, err := rediscache.New(client, rediscache.Options{Prefix: "example:"})
		if err != nil {
			return err
		}
		defer remote.Close()
		l1, err := cache.New(cache.Options[int, user]{TTL: time.Minute})
		if err != nil {
			return err
		}
		defer l1.Close()
		t, err := cache.NewTiered(l1, remote, cache.TieredOptions[int, user]{})
		if err != nil {
			return err
		}
		defer t.Close()
		for !remote.Trusted() {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("no answer from %s: %w", addr, err)
			}
			time.Sleep(time.Millisecond)
		}
		servers = append(servers, t)
	}
	if err := servers[0].Drop(ctx, 7); err != nil { // a real Redis may remember the last run
		return err
	}
	for range 100 {
		for _, s := range servers {
			if _, err := s.Load(ctx, 7, db.read); err != nil {
				return err
			}
		}
	}
	fmt.Printf("two servers, 200 requests: %d read of the database, %d answered by the shared tier, %d in memory\n",
		db.reads.Load(),
		servers[0].Stats().L2Hits+servers[1].Stats().L2Hits, servers[0].Stats().L1Hits+servers[1].Stats().L1Hits)
	db.name.Store("Ada Lovelace")
	start := time.Now()
	if err := servers[0].Drop(ctx, 7); err != nil {
		return err
	}
	took := time.Since(start)
	u, err := servers[1].Load(ctx, 7, db.read)
	if err != nil {
		return err
	}
	fmt.Printf("server 1 changes the user; %v later server 2 says %q\n", took.Round(10*time.Microsecond), u.Name)
	if u.Name != "Ada Lovelace" {
		return fmt.Errorf("an old value was served after an acknowledged delete")
	}

	rows := make([]atomic.Int64, 10)
	var writes atomic.Int64
	store := cache.Funcs[int, int64]{
		GetFunc:    func(_ context.Context, k int) (int64, error) { return rows[k].Load(), nil },
		SetFunc:    func(_ context.Context, k int, v int64) error { writes.Add(1); rows[k].Store(v); return nil },
		DeleteFunc: func(_ context.Context, k int) error { rows[k].Store(0); return nil },
	}
	counters, err := cache.New(cache.Options[int, int64]{})
	if err != nil {
		return err
	}
	back, err := cache.NewBack(counters, store, cache.BackOptions{})
	if err != nil {
		return err
	}
	for i := range int64(10_000) {
		if err := back.Set(ctx, int(i%10), i); err != nil {
			return err
		}
	}
	if err := back.Close(ctx); err != nil {
		return err
	}
	fmt.Printf("write-back: 10000 writes became %d in the database; the last value is %d\n", writes.Load(),
		rows[9].Load())
	return journaled(ctx, counters, store, &rows[3])
}

// journaled writes while the database is away, stops, and starts again: the write is there, as it is after kill -9.
func journaled(ctx context.Context, counters *cache.Cache[int, int64], store cache.Funcs[int, int64],
	row *atomic.Int64) error {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	away := store
	away.SetFunc = func(context.Context, int, int64) error { return errors.New("the database is away") }
	journal := cache.Journal[int, int64]{Dir: dir}
	back, err := cache.OpenBack(counters, away, cache.BackOptions{}, journal)
	if err != nil {
		return err
	}
	if err := back.Set(ctx, 3, 333); err != nil { // returns when it is on disk
		return err
	}
	at, cancel := context.WithCancel(ctx)
	cancel()
	if err := back.Close(at); err == nil {
		return errors.New("the write cannot be in the database")
	}
	if back, err = cache.OpenBack(counters, store, cache.BackOptions{}, journal); err != nil {
		return err
	}
	replayed := back.Stats().Replayed
	if err := back.Close(ctx); err != nil {
		return err
	}
	fmt.Printf("journal: %d write outlived the process; the database has %d\n", replayed, row.Load())
	return nil
}
