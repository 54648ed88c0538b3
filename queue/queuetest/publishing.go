package queuetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

func dedupe(t *testing.T, q *queue.Queue) {
	if q.Caps().DedupeWindow == 0 {
		t.Skip("engine without dedupe")
	}
	g := group(t, q, "t", queue.GroupOptions{})
	require.False(t, publish(t, q, queue.Message{Topic: "t", ID: "a"}).Duplicate)
	require.True(t, publish(t, q, queue.Message{Topic: "t", ID: "a"}).Duplicate)
	require.False(t, publish(t, q, queue.Message{Topic: "t", ID: "b"}).Duplicate)
	rs, err := q.PublishBatch(bg(t), []queue.Message{{Topic: "t", ID: "c"}, {Topic: "t", ID: "a"},
		{Topic: "t", ID: "c"}})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, true}, []bool{rs[0].Duplicate, rs[1].Duplicate, rs[2].Duplicate})
	ds := fetch(t, g, 3)
	require.NoError(t, g.Ack(bg(t), ds...))
	none(t, g)
	require.True(t, publish(t, q, queue.Message{Topic: "t", ID: "a"}).Duplicate, "also after it was acknowledged")

	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 16 {
		wg.Go(func() {
			r, err := q.Publish(context.Background(), queue.Message{Topic: "t", ID: "race"})
			mu.Lock()
			defer mu.Unlock()
			if err == nil && !r.Duplicate {
				fresh++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, fresh)
}

func notBefore(t *testing.T, q *queue.Queue) {
	if q.Caps().NoDelay {
		refused(t, q, queue.Message{Topic: "t", NotBefore: time.Now().Add(short)})
		return
	}
	repeated(t, func(a *attempt) error {
		g := group(t, q, a.topic, queue.GroupOptions{})
		began := time.Now()
		at := began.Add(short)
		publish(t, q, queue.Message{Topic: a.topic, NotBefore: at})
		publish(t, q, queue.Message{Topic: a.topic, Body: []byte("now")})
		first := bodies(fetch(t, g, 1))
		a.within(began)
		if first[0] != "now" {
			return fmt.Errorf("a message came before its time")
		}
		fetch(t, g, 1)
		require.False(t, time.Now().Before(at))
		return nil
	})
}

func refused(t *testing.T, q *queue.Queue, m queue.Message) {
	_, err := q.Publish(bg(t), m)
	require.ErrorIs(t, err, queue.ErrUnsupported)
}

func ttl(t *testing.T, q *queue.Queue) {
	m := queue.Message{Topic: "t", TTL: short / 3}
	if q.Caps().NoTTL {
		refused(t, q, m)
		return
	}
	g := group(t, q, "t", queue.GroupOptions{})
	publish(t, q, m)
	time.Sleep(short / 2)
	none(t, g)

	// One that was delivered in time is tried again, becomes a dead letter, and can be redriven.
	repeated(t, func(a *attempt) error {
		g := group(t, q, a.topic, queue.GroupOptions{MaxDeliveries: 2})
		began := time.Now()
		publish(t, q, queue.Message{Topic: a.topic, TTL: short})
		ctx, cancel := context.WithTimeout(t.Context(), 2*short)
		defer cancel()
		ds, err := g.Fetch(ctx, 1)
		a.within(began)
		if err != nil {
			return err
		}
		require.NoError(t, ds[0].Nack(bg(t), short))
		d := fetch(t, g, 1)[0]
		require.Equal(t, 2, d.Attempt)
		require.NoError(t, d.Nack(bg(t), 0))
		waitDead(t, g, 1)
		n, err := g.Redrive(bg(t), 10)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		d = fetch(t, g, 1)[0]
		require.Equal(t, 1, d.Attempt)
		require.NoError(t, d.Ack(bg(t)))
		return nil
	})
}

func priority(t *testing.T, q *queue.Queue) {
	if q.Caps().NoPriority {
		refused(t, q, queue.Message{Topic: "t", Priority: 1})
		return
	}
	g := group(t, q, "t", queue.GroupOptions{})
	for i := range 40 {
		publish(t, q, queue.Message{Topic: "t", Body: []byte("low")})
		publish(t, q, queue.Message{Topic: "t", Priority: 5, Body: []byte("high")})
		_ = i
	}
	low := 0
	for range 40 {
		d := fetch(t, g, 1)[0]
		if string(d.Body) == "low" {
			low++
		}
		require.NoError(t, d.Ack(bg(t)))
	}
	require.Less(t, low, 10, "priorities count")
	require.Greater(t, low, 0, "and nobody starves")
}

func keyOrder(t *testing.T, q *queue.Queue) {
	if q.Caps().NoKeyOrder {
		refused(t, q, queue.Message{Topic: "t", Key: "a"})
		return
	}
	g := group(t, q, "t", queue.GroupOptions{})
	for _, b := range []string{"a1", "a2", "b1", "a3", "b2"} {
		publish(t, q, queue.Message{Topic: "t", Key: b[:1], Body: []byte(b)})
	}
	ds := fetch(t, g, 2)
	require.ElementsMatch(t, []string{"a1", "b1"}, bodies(ds))
	none(t, g)
	require.NoError(t, ds[1].Ack(bg(t)))
	b2 := fetch(t, g, 1)[0]
	require.Equal(t, "b2", string(b2.Body))
	require.NoError(t, ds[0].Nack(bg(t), 0))
	again := fetch(t, g, 1)[0]
	require.Equal(t, "a1", string(again.Body), "a retry keeps its place")
	require.NoError(t, again.Ack(bg(t)))
	a2 := fetch(t, g, 1)[0]
	require.Equal(t, "a2", string(a2.Body))
	require.NoError(t, a2.Term(bg(t), "given up"))
	a3 := fetch(t, g, 1)[0]
	require.Equal(t, "a3", string(a3.Body))
	publish(t, q, queue.Message{Topic: "t", Key: "a", Body: []byte("a4")})
	n, err := g.Redrive(bg(t), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	none(t, g) // a3 is in flight
	require.NoError(t, a3.Release(bg(t)))
	for _, want := range []string{"a2", "a3", "a4"} {
		d := fetch(t, g, 1)[0]
		require.Equal(t, want, string(d.Body), "a redriven message has its place again")
		require.NoError(t, d.Ack(bg(t)))
	}
}

func fetchWaits(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	got := make(chan []*queue.Delivery, 1)
	ctx := bg(t)
	go func() {
		ds, _ := g.Fetch(ctx, 10)
		got <- ds
	}()
	none(t, g)
	publish(t, q, queue.Message{Topic: "t", Body: []byte("x")})
	select {
	case ds := <-got:
		require.Equal(t, []string{"x"}, bodies(ds))
	case <-time.After(10 * time.Second):
		t.Fatal("a waiting fetch was not woken")
	}
	_, err := g.Fetch(t.Context(), 0)
	require.Error(t, err)
}
