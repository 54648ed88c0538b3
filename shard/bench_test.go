package shard

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/shard/internal/stored"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// BenchmarkLookup finds the shard of a key. limit is the hash alone.
func BenchmarkLookup(b *testing.B) {
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%d", i*7919)
	}
	run := func(name string, f func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(i)
				i++
			}
		})
	}
	var sink uint64
	run("string/limit", func(i int) { sink += placement.HashString(keys[i&0xffff]) })
	run("uint64/limit", func(i int) { sink += placement.HashUint64(uint64(i)) })
	for _, n := range []int{10, 100, 1000} {
		st, err := firstState(fakeShards(b, n), &Options{})
		require.NoError(b, err)
		m, err := newMap(st)
		require.NoError(b, err)
		run(fmt.Sprintf("string/tierkit-%d-shards", n), func(i int) { m.Owner(m.Slot(keys[i&0xffff])) })
		run(fmt.Sprintf("uint64/tierkit-%d-shards", n), func(i int) { m.Owner(m.SlotUint64(uint64(i))) })
	}
	_ = sink
}

// BenchmarkDo runs nothing on the shard of a key: routing, the books of the view, the hot-key sketch. limit is the
// call.
func BenchmarkDo(b *testing.B) {
	ctx := context.Background()
	f := func(context.Context, *sql.DB, Slot) error { return nil }
	c := router(b, 4, Options{})
	db := c.DB("s000")
	b.Run("limit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = f(ctx, db, 0)
		}
	})
	b.Run("tierkit", func(b *testing.B) {
		b.ReportAllocs()
		i := int64(0)
		for b.Loop() {
			if err := c.Do(ctx, Int(i&0xffff), f); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

// BenchmarkTx updates one row in SQLite by its key. limit is a transaction of database/sql.
func BenchmarkTx(b *testing.B) {
	w := newWorld(b, testdb.SQLite(b), 1, 64, 200)
	ctx := context.Background()
	const q = `update t set v = v + 1 where id = ?`
	id := func(i int) int { return i % 100 * 2 }
	i := 0
	b.Run("limit", func(b *testing.B) {
		for b.Loop() {
			tx, err := w.shards[0].DB.BeginTx(ctx, nil)
			if err == nil {
				_, err = tx.ExecContext(ctx, q, id(i))
			}
			if err == nil {
				err = tx.Commit()
			}
			require.NoError(b, err)
			i++
		}
	})
	b.Run("tierkit", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, w.c.Tx(ctx, Int(int64(id(i))), nil, func(tx *Tx) error {
				_, err := tx.ExecContext(ctx, q, id(i))
				return err
			}))
			i++
		}
	})
}

// BenchmarkHotKey counts a key in the sketch: a celebrity takes a fifth, 100,000 others are distributed by zipf(1.1).
// limit is a counter in a map, of which a hot one cannot be told until the end.
func BenchmarkHotKey(b *testing.B) {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 100_000)
	keys := make([]Key, 1<<16)
	for i := range keys {
		if keys[i] = Int(int64(z.Uint64())); i%5 == 0 {
			keys[i] = Int(-1)
		}
	}
	s, all := newSketch(4096), map[Key]uint64{}
	for name, f := range map[string]func(k Key){"tierkit": s.add, "limit": func(k Key) { all[k]++ }} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(keys[i&0xffff])
				i++
			}
		})
	}
}

// BenchmarkInstall makes a map of 1000 shards in which one slot moved the one in use. limit is a copy of the owners.
func BenchmarkInstall(b *testing.B) {
	c := router(b, 1000, Options{})
	b.Run("limit", func(b *testing.B) {
		b.ReportAllocs()
		owners := c.view.Load().st.Owners
		for b.Loop() {
			_ = append(stored.Owners(nil), owners...)
		}
	})
	b.Run("tierkit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			next := c.view.Load().st.Next()
			if err := next.SetOwner(stored.Slot(next.Epoch%16384), "s007"); err != nil {
				b.Fatal(err)
			}
			if err := c.install(next, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
