package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/shard"
)

// Sharded, replicated SQLite as the full stack has it: slots move to a new shard while clients write and primaries of
// the source and the target are killed and restarted. Every acknowledged increment is counted exactly once.
func TestReshardOverReplicas(t *testing.T) {
	ctx := t.Context()
	var ships []*Cluster
	var reps []*replica.Cluster
	var shards []shard.Shard
	for i := range 3 {
		c := open(t, Options{NoFsync: true, CommitTimeout: 500 * time.Millisecond, Name: fmt.Sprint("shard", i)})
		r, err := replica.New(c.Dialect(), c.Replicas(),
			replica.Options{Name: fmt.Sprint("shard", i), ProbeInterval: 50 * time.Millisecond,
				ProbeTimeout: 300 * time.Millisecond,
				Promotion:    &replica.Promotion{Lease: replica.MemoryLease(), MinStandbys: 2}})
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		require.NoError(t, r.WaitReady(ctx))
		for _, q := range []string{`create table acc (id integer primary key, slot integer not null, n integer not null)`, `create index acc_slot on acc (slot, id)`,
			`create table seen (slot integer not null, event text not null, primary key (slot, event))`} {
			_, err := r.DB().ExecContext(ctx, q)
			require.NoError(t, err)
		}
		ships, reps = append(ships, c), append(reps, r)
		shards = append(shards, shard.Shard{ID: shard.ID(fmt.Sprint("s", i)), DB: r.DB()})
	}
	sc, err := shard.New(ctx, shard.MemoryStore(), shards[:2],
		shard.Options{Dialect: shard.SQLite(), Slots: 64, Retry: 20 * time.Second,
			Tables: []shard.Table{{Name: "acc", Key: []string{"id"}}, {Name: "seen", Key: []string{"slot", "event"}}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = sc.Close() })
	require.NoError(t, sc.Guard(ctx))
	require.NoError(t, sc.AddShard(shards[2]))

	const accounts = 200
	var acked [accounts]atomic.Int64
	var total, failed atomic.Int64
	incr := func(id int, event string) {
		for {
			err := sc.Tx(ctx, shard.Int(int64(id)), nil, func(tx *shard.Tx) error {
				res, err := tx.ExecContext(ctx, `insert into seen (slot, event) values (?, ?) on conflict do nothing`,
					int(tx.Slot()), event)
				if err != nil {
					return err
				}
				if n, err := res.RowsAffected(); err != nil || n == 0 {
					return err // counted already: an unknown outcome that was known after all
				}
				_, err = tx.ExecContext(ctx, `insert into acc (id, slot, n) values (?, ?, 1) on conflict (id) do update set n = n + 1`, id, int(tx.Slot()))
				return err
			})
			if err == nil {
				acked[id].Add(1)
				total.Add(1)
				return
			}
			if !errors.Is(err, replica.ErrCommitUnknown) {
				if failed.Add(1) < 5 {
					t.Log(err)
				}
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					incr(rand.IntN(accounts), fmt.Sprintf("%d-%d", g, i))
				}
			}
		})
	}
	var once sync.Once
	quit := func() { once.Do(func() { close(stop) }); wg.Wait() }
	t.Cleanup(quit)
	grown := func() {
		from := total.Load()
		waitFor(t, "writes go on", func() bool { return total.Load() > from+50 })
	}
	grown()
	plan, err := sc.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"s0": 1, "s1": 1, "s2": 1}})
	require.NoError(t, err)
	j, err := sc.Move(ctx, plan, shard.MoveOptions{Group: 6, Chunk: 10, RowsPerSecond: 300})
	require.NoError(t, err)
	kill := func(i int) {
		waitFor(t, "a primary", func() bool { return reps[i].Status().Primary != "" })
		p := reps[i].Status().Primary
		ships[i].Node(p).Gate().Kill()
		waitFor(t, "promotion", func() bool { q := reps[i].Status().Primary; return q != "" && q != p })
		grown()
		require.NoError(t, ships[i].Restart(ctx, p))
		waitFor(t, "all up", func() bool {
			for _, n := range reps[i].Status().Nodes {
				if n.State != "up" || n.Fenced != "" {
					return false
				}
			}
			return true
		})
	}
	kill(0)
	kill(2)
	kill(1)
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	require.NoError(t, j.Wait(wait))
	grown()
	quit()
	t.Logf("%d increments acknowledged; write pauses %v; stats %+v", total.Load(), j.Status().WritePauses,
		sc.Stats().Refused)
	require.Zero(t, failed.Load())
	var sum int64
	for id := range accounts {
		var n int64
		err := sc.Tx(ctx, shard.Int(int64(id)), nil, func(tx *shard.Tx) error {
			return tx.QueryRowContext(ctx, `select coalesce(max(n), 0) from acc where id = ?`, id).Scan(&n)
		})
		require.NoError(t, err)
		require.Equal(t, acked[id].Load(), n, "account %d", id)
		sum += n
	}
	require.Equal(t, total.Load(), sum)
	for _, c := range ships {
		equalSums(t, c, 3)
	}
}
