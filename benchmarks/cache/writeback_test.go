package cache

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tierkit/tierkit/cache"
)

// BenchmarkBack measures acknowledged writes of 64 goroutines to a write-back cache: with a journal, without one, and
// as limit one write and fdatasync after the other into a file that has its blocks.
func BenchmarkBack(b *testing.B) {
	const writers, keys, size = 64, 10_000, 100
	value := make([]byte, size)
	store := cache.Funcs[uint64, []byte]{
		GetFunc:    func(context.Context, uint64) ([]byte, error) { return nil, cache.ErrNotFound },
		SetFunc:    func(context.Context, uint64, []byte) error { return nil },
		DeleteFunc: func(context.Context, uint64) error { return nil },
	}
	write := func(b *testing.B, back *cache.Back[uint64, []byte]) {
		var n atomic.Int64
		var wg sync.WaitGroup
		b.ResetTimer()
		for range writers {
			wg.Go(func() {
				for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
					if err := back.Set(context.Background(), uint64(i)%keys, value); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		if s := back.Stats().JournalSyncs; s > 0 {
			b.ReportMetric(float64(b.N)/float64(s), "writes/sync")
		}
		if err := back.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}
	open := func(b *testing.B) *cache.Cache[uint64, []byte] {
		c, err := cache.New(cache.Options[uint64, []byte]{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
	b.Run("tierkit", func(b *testing.B) {
		back, err := cache.OpenBack(open(b), store, cache.BackOptions{MaxPending: 2 * keys},
			cache.Journal[uint64, []byte]{Dir: b.TempDir(), Value: cache.Bytes{}})
		if err != nil {
			b.Fatal(err)
		}
		write(b, back)
	})
	b.Run("memory", func(b *testing.B) {
		back, err := cache.NewBack(open(b), store, cache.BackOptions{MaxPending: 2 * keys})
		if err != nil {
			b.Fatal(err)
		}
		write(b, back)
	})
	b.Run("limit", func(b *testing.B) {
		const room = 8 << 20
		f, err := os.OpenFile(filepath.Join(b.TempDir(), "log"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, room)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for i := range b.N {
			if _, err := f.WriteAt(value, int64(i*(size+32)%(room-size))); err != nil {
				b.Fatal(err)
			}
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
	})
}
