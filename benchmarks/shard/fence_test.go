package shard

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/shard"
)

const rows = 2000

// BenchmarkFence is a one-row UPDATE by key on PostgreSQL from 4 clients: limit has no guard; idle has the guard and no
// slot that moves; beside updates rows of slots that do not move while others do; moving updates rows whose slots are
// being copied. The mover rests between two chunks meanwhile, so that the guard is measured and not who else uses the
// processors. Each is measured in ten interleaved pairs with limit, and "x" is the median of their ratios.
func BenchmarkFence(b *testing.B) {
	for _, durable := range []bool{true, false} {
		s := testserver.Postgres(b, testserver.PostgresOptions{Fsync: durable,
			Config: map[string]string{"synchronous_commit": map[bool]string{true: "on", false: "off"}[durable]}})
		open := func(name string) shard.Shard {
			if _, err := s.Primary().DB().Exec("create database " + name); err != nil {
				b.Fatal(err)
			}
			db, err := sql.Open("pgx", fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.Primary().Addr(),
				name))
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
		c, err := shard.New(ctx, shard.MemoryStore(), []shard.Shard{one, two},
			shard.Options{Dialect: shard.Postgres(), Tables: []shard.Table{{Name: "t", Key: []string{"id"}}}})
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
		update := func(db *sql.DB, ids []int64) time.Duration {
			const clients, each = 4, 700
			began := time.Now()
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for range each {
						if _, err := db.Exec(`update t set v = v + 1 where id = $1`,
							ids[rand.IntN(len(ids))]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			return time.Since(began) / (clients * each)
		}
		pairs := func(name string, ids []int64) {
			b.Run(fmt.Sprintf("durable=%v/%s/tierkit", durable, name), func(b *testing.B) {
				var ratios, limits []float64
				update(plain.DB, ids)
				update(one.DB, ids)
				for range 10 {
					limit, ours := update(plain.DB, ids), update(one.DB, ids)
					ratios, limits = append(ratios, float64(ours)/float64(limit)), append(limits, float64(limit))
				}
				slices.Sort(ratios)
				slices.Sort(limits)
				b.ReportMetric((ratios[4]+ratios[5])/2, "x")
				b.ReportMetric(limits[5], "limit-ns")
				b.ReportMetric(0, "ns/op")
			})
		}
		pairs("idle", ids)
		plan, err := c.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"one": 1, "two": 3}})
		if err != nil {
			b.Fatal(err)
		}
		moves := map[shard.Slot]bool{}
		for _, m := range plan.Moves {
			moves[m.Slot] = true
		}
		var stay, leave []int64
		for _, id := range ids {
			if moves[c.Slot(shard.Int(id))] {
				leave = append(leave, id)
			} else {
				stay = append(stay, id)
			}
		}
		// rests for minutes after 500 rows
		job, err := c.Move(ctx, plan, shard.MoveOptions{Group: 16384, Chunk: 500, RowsPerSecond: 1})
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
		pairs("beside", stay)
		pairs("moving", leave)
		if err := job.Abort(ctx); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
