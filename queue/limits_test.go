package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// One tenant has 400 messages before another's 20: with a limit the other is served at once, and no tenant has more
// than two at a time.
func TestLimitsAreFair(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	g := group(t, q, queue.GroupOptions{MaxDeliveries: 2})
	send := func(tenant string, n int) {
		for i := range n {
			_, err := q.Publish(t.Context(), queue.Message{Topic: "t", Header: map[string]string{"tenant": tenant},
				Body: fmt.Append(nil, i)})
			require.NoError(t, err)
		}
	}
	send("heavy", 400)
	send("light", 20)
	var mu sync.Mutex
	running, done, heavyBeforeLight := map[string]int{}, map[string]int{}, 0
	m := queue.NewMux()
	m.Use(func(next queue.HandlerFunc) queue.HandlerFunc {
		return func(ctx context.Context, ds []*queue.Delivery) error {
			tenant := ds[0].Header["tenant"]
			mu.Lock()
			running[tenant]++
			if running[tenant] > 2 {
				t.Errorf("%d of %s at once", running[tenant], tenant)
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				running[tenant]--
				done[tenant]++
				if done["light"] < 20 {
					heavyBeforeLight = done["heavy"]
				}
				mu.Unlock()
			}()
			return next(ctx, ds)
		}
	})
	queue.Handle(m, "", func(ctx context.Context, j *queue.Job[int]) error {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	})
	p, err := queue.NewPool(g, m, queue.PoolOptions{Workers: 8,
		Limits: queue.Limits{Concurrency: 2, Key: func(d *queue.Delivery) string {
			return d.Header["tenant"]
		}}})
	require.NoError(t, err)
	defer p.Close()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return done["heavy"] == 400 && done["light"] == 20
	}, 60*time.Second, 5*time.Millisecond)
	require.Less(t, heavyBeforeLight, 300, "the light tenant did not wait for the heavy one")
	require.NotZero(t, p.Stats().Limited)
	require.EqualValues(t, 0, q.Stats().DeadLettered, "being limited is not an attempt")
	_, err = queue.NewPool(g, m, queue.PoolOptions{Limits: queue.Limits{Rate: -1}})
	require.ErrorContains(t, err, "Limits")
}

func TestLimitsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, t.TempDir(), queue.Options{})
		g := group(t, q, queue.GroupOptions{})
		for i := range 30 {
			_, err := q.Publish(t.Context(), queue.Message{Topic: "t",
				Header: map[string]string{"tenant": fmt.Sprint(i % 2)}, Body: fmt.Append(nil, i)})
			require.NoError(t, err)
		}
		var mu sync.Mutex
		begun := map[string][]time.Time{}
		m := queue.NewMux()
		queue.Handle(m, "", func(_ context.Context, j *queue.Job[int]) error {
			mu.Lock()
			defer mu.Unlock()
			tenant := j.Header["tenant"]
			begun[tenant] = append(begun[tenant], time.Now())
			return nil
		})
		p, err := queue.NewPool(g, m, queue.PoolOptions{Workers: 4,
			Limits: queue.Limits{Rate: 50, Burst: 5, Key: func(d *queue.Delivery) string {
				return d.Header["tenant"]
			}}})
		require.NoError(t, err)
		defer q.Close()
		defer p.Close()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, begun, 2)
		for tenant, at := range begun {
			// 15 messages: 5 at once, 10 at 50 a second.
			require.Len(t, at, 15)
			require.InDelta(t, 0.2, at[14].Sub(at[0]).Seconds(), 0.02, tenant)
		}
	})
}
