package queuetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

func nack(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t"})
	start := time.Now()
	require.NoError(t, fetch(t, g, 1)[0].Nack(bg(t), short))
	d := fetch(t, g, 1)[0]
	require.GreaterOrEqual(t, time.Since(start), short)
	require.Equal(t, 2, d.Attempt)
	require.NoError(t, d.Nack(bg(t), 0))
	require.Equal(t, 3, fetch(t, g, 1)[0].Attempt)
}

func release(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{MaxDeliveries: 2})
	publish(t, q, queue.Message{Topic: "t"})
	for range 4 {
		d := fetch(t, g, 1)[0]
		require.Equal(t, 1, d.Attempt)
		require.NoError(t, d.Release(bg(t)))
	}
	require.NoError(t, fetch(t, g, 1)[0].Ack(bg(t)))
}

func dead(t *testing.T, q *queue.Queue) {
	var g *queue.Group
	repeated(t, func(a *attempt) error {
		g = group(t, q, a.topic, queue.GroupOptions{Lease: short, MaxDeliveries: 2})
		publish(t, q, queue.Message{Topic: a.topic, Kind: "k", Body: []byte("poison")})
		for range 2 {
			began := time.Now()
			err := fetch(t, g, 1)[0].Nack(bg(t), 0)
			a.within(began)
			if err != nil {
				return err
			}
		}
		return nil
	})
	none(t, g)
	letters := waitDead(t, g, 1)
	require.Equal(t, "poison", string(letters[0].Body))
	require.Equal(t, "k", letters[0].Kind)
	require.Equal(t, 2, letters[0].Attempts)
	require.NotEmpty(t, letters[0].Reason)
	n, err := g.Redrive(bg(t), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	d := fetch(t, g, 1)[0]
	require.Equal(t, 1, d.Attempt)
	fetch(t, g, 1) // the first lease ends, the second too: nobody acknowledges
	waitDead(t, g, 1)
	n, err = g.PurgeDead(bg(t), 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	waitDead(t, g, 0)
	none(t, g)
}

func waitDead(t *testing.T, g *queue.Group, n int) (letters []queue.DeadLetter) {
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		ds, _ := g.Fetch(ctx, 1) // engines may notice the end of a lease only when somebody asks
		cancel()
		require.Empty(t, ds)
		var err error
		letters, err = g.Dead(t.Context(), 10)
		require.NoError(t, err)
		return len(letters) == n
	}, 10*time.Second, 10*time.Millisecond)
	return letters
}

func term(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t"})
	require.NoError(t, fetch(t, g, 1)[0].Term(bg(t), "makes no sense"))
	require.Equal(t, "makes no sense", waitDead(t, g, 1)[0].Reason)
	none(t, g)
}
