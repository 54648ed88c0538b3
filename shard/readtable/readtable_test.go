package readtable

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testcluster"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// Orders stand on the shards of their customers, and by product in one table for reading. Writers change and delete
// them while slots move, relays of two processes work against each other, and the table's database fails now and then:
// in the end it is what the shards have.
func TestReadTable(t *testing.T) {
	for name, open := range testdb.All {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			w := testcluster.New(t, p, 2, 32)
			target := p.Open("readside")
			upsert, err := UpsertInto(t.Context(), target, testcluster.Dialect(p), "orders_by_product")
			require.NoError(t, err)
			_, err = UpsertInto(t.Context(), target, testcluster.Dialect(p), "orders_by_product") // again
			require.NoError(t, err)
			var calls atomic.Int64
			apply := func(ctx context.Context, cs []Change) error {
				if calls.Add(1)%7 == 0 {
					if err := upsert(ctx, cs[:len(cs)/2]); err != nil { // half of it, and then it breaks
						return err
					}
					return errors.New("connection lost")
				}
				return upsert(ctx, cs)
			}
			first, err := New(w.Cluster, Options{Apply: apply, Interval: 5 * time.Millisecond})
			require.NoError(t, err)
			require.NoError(t, first.Migrate(t.Context()))
			second, err := New(w.Process(t), Options{Apply: apply, Interval: 5 * time.Millisecond})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			var relays sync.WaitGroup
			for _, r := range []*Table{first, second} {
				relays.Go(func() { _ = r.Run(ctx) })
			}
			defer relays.Wait()
			defer cancel()

			type order struct{ Customer, Quantity int }
			var mu sync.Mutex
			want := map[string]order{}
			var stop atomic.Bool
			var writers sync.WaitGroup
			for g := range 3 {
				writers.Go(func() {
					for n := 0; !stop.Load() || n < 20; n++ {
						customer := g*10 + rand.IntN(10) // each writer has customers of its own
						key := fmt.Sprintf("product-%d/customer-%d", customer%4, customer)
						quantity := rand.IntN(5)
						err := w.Tx(context.Background(), shard.Int(int64(customer)), nil, func(tx *shard.Tx) error {
							b := p.Bind
							var version int64
							err := tx.QueryRowContext(context.Background(), b(`select v from t where id = ?`),
								customer).Scan(&version)
							if err != nil && !errors.Is(err, sql.ErrNoRows) {
								return err
							}
							version++
							q := `update t set v = ? where id = ?`
							if err != nil {
								q = `insert into t (v, id, slot) values (?, ?, ` + fmt.Sprint(int(tx.Slot())) + `)`
							}
							if _, err := tx.ExecContext(context.Background(), b(q), version, customer); err != nil {
								return err
							}
							data, _ := json.Marshal(order{customer, quantity})
							return first.Add(context.Background(), tx,
								Change{Key: key, Version: version, Deleted: quantity == 0, Data: data})
						})
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						if quantity > 0 {
							want[key] = order{customer, quantity}
						} else {
							delete(want, key)
						}
						mu.Unlock()
						first.Wake()
						time.Sleep(time.Millisecond)
					}
				})
			}
			plan, err := w.Plan(t.Context(), shard.Change{Weights: map[shard.ID]float64{"s0": 1, "s1": 1, "s2": 1}})
			require.NoError(t, err)
			job, err := w.Move(t.Context(), plan, shard.MoveOptions{})
			require.NoError(t, err)
			require.NoError(t, job.Wait(t.Context()))
			stop.Store(true)
			writers.Wait()
			require.Eventually(t, func() bool {
				n, oldest, err := first.Backlog(t.Context())
				require.NoError(t, err)
				return n == 0 && oldest == 0
			}, 60*time.Second, 5*time.Millisecond)
			cancel()
			relays.Wait()
			got := map[string]order{}
			rows, err := target.Query(`select row_key, data from orders_by_product where deleted = 0`)
			require.NoError(t, err)
			defer rows.Close()
			for rows.Next() {
				var key string
				var data []byte
				require.NoError(t, rows.Scan(&key, &data))
				var o order
				require.NoError(t, json.Unmarshal(data, &o))
				got[key] = o
			}
			require.NoError(t, rows.Err())
			require.Equal(t, want, got)
			// An old change that arrives late changes nothing.
			for key := range want {
				require.NoError(t, upsert(t.Context(),
					[]Change{{Key: key, Version: 0, Data: []byte(`{"Customer":-1}`)},
						{Key: key, Version: 1, Deleted: true}}))
			}
			var deleted int
			require.NoError(t, target.QueryRow(`select count(*) from orders_by_product where deleted = 0`).Scan(
				&deleted))
			require.Equal(t, len(want), deleted)
		})
	}
}

func TestOptions(t *testing.T) {
	w := testcluster.New(t, testdb.SQLite(t), 2, 16)
	apply := func(context.Context, []Change) error { return nil }
	for want, o := range map[string]Options{"Apply": {}, "Outbox": {Apply: apply, Outbox: "a;b"},
		"Options.Batch": {Apply: apply, Batch: -1}} {
		_, err := New(w.Cluster, o)
		require.ErrorContains(t, err, want)
	}
	_, err := UpsertInto(t.Context(), w.Shards[0].DB, shard.SQLite(), "no such name")
	require.Error(t, err)
}
