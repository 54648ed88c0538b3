package shard

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/tierkit/tierkit/internal/testserver"
	"github.com/tierkit/tierkit/shard"
)

const rows = 2000

// BenchmarkFence is a one-row UPDATE by key on PostgreSQL from 4 clients: limit has no guard, idle has the guard and no slot that
// moves, moving updates rows whose slots are being copied.
func BenchmarkFence(b *testing.B) {
	for _, durable := range []bool{true, false} {
		s := testserver.Postgres(b, testserver.PostgresOptions{Fsync: durable, Config: map[string]string{"synchronous_commit": map[bool]string{true: "on", false: "off"}[durable]}})
		open := func(name string) shard.Shard {
			if _, err := s.Primary().DB().Exec("create database " + name); err != nil {
				b.Fatal(err)
			}
			db, err := sql.Open("pgx", fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.Primary().Addr(), name))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = db.Close() })
			db.SetMaxIdleConns(16)
			if _, err := db.Exec(`create table t (id bigint primary key, slot smallint not null, v bigint not null); create index on t (slot, id)`); err != nil {
				b.Fatal(err)
			}
			return shard.Shard{ID: shard.ID(name), DB: db}
		}
		ctx := context.Background()
		plain, one, two := open("plain"), open("one"), open("two")
		c, err := shard.New(ctx, shard.MemoryStore(), []shard.Shard{one, two}, shard.Options{Dialect: shard.Postgres(), Tables: []shard.Table{{Name: "t", Key: []string{"id"}}}})
		if err != nil {
			b.Fatal(err)
		}
		var ids []int64
		for id := int64(0); len(ids) < rows; id++ {
			slot := c.Slot(shard.Int(id))
			if c.Map().Owner(slot) != "one" {
				continue
			}
			ids = append(ids, id)
			for _, db := range []*sql.DB{plain.DB, one.DB} {
				if _, err := db.Exec(`insert into t values ($1, $2, 0)`, id, int(slot)); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := c.Guard(ctx); err != nil {
			b.Fatal(err)
		}
		update := func(name string, db *sql.DB) {
			b.Run(fmt.Sprintf("durable=%v/%s", durable, name), func(b *testing.B) {
				b.SetParallelism(2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := db.Exec(`update t set v = v + 1 where id = $1`, ids[rand.IntN(rows)]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
		for range 3 { // interleaved: the machine's mood is the same for all
			update("limit", plain.DB)
			update("idle/tierkit", one.DB)
		}
		plan, err := c.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"two": 1}})
		if err != nil {
			b.Fatal(err)
		}
		job, err := c.Move(ctx, plan, shard.MoveOptions{Group: 16384, Chunk: 1, RowsPerSecond: 1}) // copies for ever
		if err != nil {
			b.Fatal(err)
		}
		for job.Status().RowsCopied == 0 {
			wait, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			if err := job.Wait(wait); wait.Err() == nil {
				b.Fatal("the job ended: ", err)
			}
			cancel()
		}
		for range 3 {
			update("limit", plain.DB)
			update("moving/tierkit", one.DB)
		}
		if err := job.Abort(ctx); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
