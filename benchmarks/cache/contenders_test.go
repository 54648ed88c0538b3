// Package cache measures tierkit's cache beside otter, ristretto, theine, freelru and golang-lru, and a raw map as
// limit, in one run: go test -bench . -count 15 ./cache
package cache

import (
	"testing"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/elastic/go-freelru"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"

	"github.com/tierkit/tierkit/cache"
)

// ops are what every contender can do; ttl is 0 for none.
type ops[K comparable, V any] struct {
	get   func(K) (V, bool)
	set   func(K, V)
	sync  func() // waits until earlier sets count
	close func()
}

type key interface{ uint64 | string }

func nothing() {}

func open[K key](tb testing.TB, name string, max int, ttl time.Duration) ops[K, K] {
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	switch name {
	case "tierkit":
		c, err := cache.New(cache.Options[K, K]{MaxEntries: max, TTL: ttl})
		check(err)
		return ops[K, K]{c.Get, c.Set, nothing, func() { c.Close() }}
	case "otter":
		o := &otter.Options[K, K]{MaximumSize: max}
		if ttl > 0 {
			o.ExpiryCalculator = otter.ExpiryWriting[K, K](ttl)
		}
		c, err := otter.New(o)
		check(err)
		return ops[K, K]{c.GetIfPresent, func(k, v K) { c.Set(k, v) }, c.CleanUp, func() { c.StopAllGoroutines() }}
	case "ristretto":
		c, err := ristretto.NewCache(&ristretto.Config[K, K]{NumCounters: int64(max) * 10, MaxCost: int64(max),
			BufferItems: 64, IgnoreInternalCost: true})
		check(err)
		return ops[K, K]{c.Get, func(k, v K) { c.SetWithTTL(k, v, 1, ttl) }, c.Wait, c.Close}
	case "theine":
		c, err := theine.NewBuilder[K, K](int64(max)).Build()
		check(err)
		return ops[K, K]{c.Get, func(k, v K) { c.SetWithTTL(k, v, 1, ttl) }, c.Wait, c.Close}
	case "freelru":
		c, err := freelru.NewSharded[K, K](uint32(max), func(k K) uint32 {
			switch k := any(k).(type) {
			case string:
				return uint32(xxhash.Sum64String(k))
			case uint64:
				return uint32(k * 0x9E3779B97F4A7C15 >> 32)
			}
			return 0
		})
		check(err)
		c.SetLifetime(ttl)
		return ops[K, K]{c.Get, func(k, v K) { c.Add(k, v) }, nothing, nothing}
	case "golang-lru":
		c, err := lru.New[K, K](max)
		check(err)
		return ops[K, K]{c.Get, func(k, v K) { c.Add(k, v) }, nothing, nothing}
	case "expirable":
		c := expirable.NewLRU[K, K](max, nil, ttl)
		return ops[K, K]{c.Get, func(k, v K) { c.Add(k, v) }, nothing, nothing}
	case "limit":
		m := make(map[K]K, max)
		return ops[K, K]{func(k K) (K, bool) {
			v, ok := m[k]
			return v, ok
		}, func(k, v K) { m[k] = v }, nothing, nothing}
	}
	tb.Fatal(name)
	return ops[K, K]{}
}

var all = []string{"tierkit", "otter", "ristretto", "theine", "freelru", "golang-lru", "expirable"}
