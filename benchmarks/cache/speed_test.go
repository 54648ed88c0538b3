package cache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

const entries = 100_000

// keys are a zipf sequence over n keys, as precomputed as a benchmark's keys have to be.
func keys[K key](n int) (unique, seq []K) {
	unique = make([]K, n)
	for i := range unique {
		switch p := any(&unique[i]).(type) {
		case *uint64:
			*p = uint64(i) * 7919
		case *string:
			*p = fmt.Sprintf("user:%d:profile", i*7919)
		}
	}
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.0001, 10, uint64(n-1))
	seq = make([]K, 1<<20)
	for i := range seq {
		seq[i] = unique[z.Uint64()]
	}
	return unique, seq
}

func BenchmarkInt(b *testing.B)    { works[uint64](b) }
func BenchmarkString(b *testing.B) { works[string](b) }

func works[K key](b *testing.B) {
	unique, seq := keys[K](entries)
	for _, w := range []struct {
		name  string
		reads int // percent
		ttl   time.Duration
	}{{"reads", 100, 0}, {"reads-ttl", 100, time.Hour}, {"75-25", 75, 0}, {"50-50", 50, 0}} {
		names := append([]string{}, all...)
		if w.reads == 100 && w.ttl == 0 {
			names = append(names, "limit")
		}
		for _, name := range names {
			if w.ttl > 0 && name == "golang-lru" {
				continue
			}
			b.Run(w.name+"/"+name, func(b *testing.B) {
				c := open[K](b, name, entries*2, w.ttl)
				defer c.close()
				for i, k := range unique {
					c.set(k, k)
					if i%1000 == 0 {
						c.sync()
					}
				}
				c.sync()
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					i := rand.IntN(len(seq))
					for n := 0; pb.Next(); n++ {
						i = (i + 1) & (len(seq) - 1)
						if n%100 < w.reads {
							c.get(seq[i])
						} else {
							c.set(seq[i], seq[i])
						}
					}
				})
			})
		}
	}
	// cache-aside: a million keys, room for a tenth; what is missing is set.
	_, seq = keys[K](10 * entries)
	for _, name := range all {
		b.Run("aside/"+name, func(b *testing.B) {
			c := open[K](b, name, entries, 0)
			defer c.close()
			for _, k := range seq[:len(seq)/2] {
				if _, ok := c.get(k); !ok {
					c.set(k, k)
				}
			}
			c.sync()
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				i := rand.IntN(len(seq))
				for pb.Next() {
					i = (i + 1) & (len(seq) - 1)
					if _, ok := c.get(seq[i]); !ok {
						c.set(seq[i], seq[i])
					}
				}
			})
		})
	}
}

// BenchmarkMemory reports bytes per entry of a full cache, beyond the bytes of the keys, which are shared.
func BenchmarkMemory(b *testing.B) {
	b.Run("int", func(b *testing.B) { memory[uint64](b, 0) })
	b.Run("string", func(b *testing.B) { memory[string](b, 0) })
	b.Run("string-ttl", func(b *testing.B) { memory[string](b, time.Hour) })
}

func memory[K key](b *testing.B, ttl time.Duration) {
	const n = 1_000_000
	unique, _ := keys[K](n)
	for _, name := range all {
		if ttl > 0 && name == "golang-lru" {
			continue
		}
		b.Run(name, func(b *testing.B) {
			for range b.N {
				heap := func() uint64 {
					runtime.GC()
					runtime.GC()
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					return m.HeapAlloc
				}
				before := heap()
				c := open[K](b, name, n, ttl)
				for i, k := range unique {
					c.set(k, k)
					if i%1000 == 0 {
						c.sync()
					}
				}
				c.sync()
				held := 0
				for _, k := range unique {
					if _, ok := c.get(k); ok {
						held++
					}
				}
				b.ReportMetric(float64(heap()-before)/float64(held), "B/entry")
				c.close()
				runtime.KeepAlive(unique)
			}
		})
	}
}
