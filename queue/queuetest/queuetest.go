// Package queuetest holds every engine of package queue to the same contract.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// Run runs the suite. open returns a queue that no other test uses, and closes it with t.Cleanup. What the engine's Caps exclude must be answered
// with ErrUnsupported, and is otherwise left out.
func Run(t *testing.T, open func(t *testing.T) *queue.Queue) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, q *queue.Queue)
	}{
		{"EverythingPublishedIsDeliveredOnce", everything},
		{"MessageKeepsItsFields", fields},
		{"GroupsAreIndependent", groups},
		{"FirstGroupGetsWhatWasPublishedBefore", before},
		{"LeaseEndsAndStaleHolderIsRefused", lease},
		{"ExtendKeepsTheLease", extend},
		{"NackDelays", nack},
		{"ReleaseDoesNotCount", release},
		{"DeadLetters", dead},
		{"TermIsFinal", term},
		{"Dedupe", dedupe},
		{"NotBefore", notBefore},
		{"TTL", ttl},
		{"Priority", priority},
		{"KeyOrder", keyOrder},
		{"FetchWaits", fetchWaits},
		{"ManyConsumers", manyConsumers},
		{"Lag", lag},
		{"PeekAndPurge", peekAndPurge},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

const short = 300 * time.Millisecond

func bg(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func group(t *testing.T, q *queue.Queue, topic string, o queue.GroupOptions) *queue.Group {
	g, err := q.Group(bg(t), topic, "workers", o)
	require.NoError(t, err)
	return g
}

func publish(t *testing.T, q *queue.Queue, m queue.Message) queue.Receipt {
	r, err := q.Publish(bg(t), m)
	require.NoError(t, err)
	return r
}

func fetch(t *testing.T, g *queue.Group, n int) []*queue.Delivery {
	var ds []*queue.Delivery
	for len(ds) < n {
		more, err := g.Fetch(bg(t), n-len(ds))
		require.NoError(t, err)
		ds = append(ds, more...)
	}
	return ds
}

// none checks that nothing is delivered for a while.
func none(t *testing.T, g *queue.Group) {
	ctx, cancel := context.WithTimeout(t.Context(), short/2)
	defer cancel()
	ds, err := g.Fetch(ctx, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, ds)
}

func bodies(ds []*queue.Delivery) (s []string) {
	for _, d := range ds {
		s = append(s, string(d.Body))
	}
	return s
}

func everything(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	var want []string
	for i := range 20 {
		publish(t, q, queue.Message{Topic: "t", Body: fmt.Append(nil, i)})
		want = append(want, fmt.Sprint(i))
	}
	batch := make([]queue.Message, 30)
	for i := range batch {
		batch[i] = queue.Message{Topic: "t", Body: fmt.Append(nil, 20+i)}
		want = append(want, fmt.Sprint(20+i))
	}
	rs, err := q.PublishBatch(bg(t), batch)
	require.NoError(t, err)
	require.Len(t, rs, 30)
	for i := range rs[1:] {
		require.Greater(t, rs[i+1].Seq, rs[i].Seq)
	}
	ds := fetch(t, g, 50)
	require.Equal(t, want, bodies(ds))
	require.NoError(t, g.Ack(bg(t), ds[:25]...))
	for _, d := range ds[25:] {
		require.NoError(t, d.Ack(bg(t)))
	}
	none(t, g)
}

func fields(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	m := queue.Message{Topic: "t", Kind: "resize", ID: "id-1", Header: map[string]string{"traceparent": "00-1", "x": ""}, Body: []byte{0, 1, 255}}
	if !q.Caps().NoKeyOrder {
		m.Key = "key"
	}
	if !q.Caps().NoPriority {
		m.Priority = 9
	}
	before := time.Now()
	r := publish(t, q, m)
	d := fetch(t, g, 1)[0]
	require.Equal(t, m, d.Message)
	require.Equal(t, r.Seq, d.Seq)
	require.Equal(t, 1, d.Attempt)
	require.WithinRange(t, d.Published, before.Add(-time.Second), time.Now().Add(time.Second))
	require.WithinRange(t, d.Deadline, before.Add(29*time.Second), time.Now().Add(31*time.Second))
	publish(t, q, queue.Message{Topic: "t"})
	if d := fetch(t, g, 1)[0]; len(d.Body) != 0 || len(d.Header) != 0 {
		t.Fatalf("empty message came as %+v", d.Message)
	}
	_, err := q.Publish(bg(t), queue.Message{Topic: "t", Priority: 10})
	require.Error(t, err)
}

func groups(t *testing.T, q *queue.Queue) {
	a := group(t, q, "t", queue.GroupOptions{})
	b, err := q.Group(bg(t), "t", "others", queue.GroupOptions{})
	require.NoError(t, err)
	other := group(t, q, "other topic", queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t", Body: []byte("x")})
	require.NoError(t, fetch(t, a, 1)[0].Ack(bg(t)))
	require.NoError(t, fetch(t, b, 1)[0].Ack(bg(t)))
	none(t, a)
	none(t, b)
	none(t, other)
}

func before(t *testing.T, q *queue.Queue) {
	publish(t, q, queue.Message{Topic: "t", Body: []byte("early")})
	g := group(t, q, "t", queue.GroupOptions{})
	require.Equal(t, []string{"early"}, bodies(fetch(t, g, 1)))
}

func lease(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{Lease: short})
	publish(t, q, queue.Message{Topic: "t", Body: []byte("x")})
	first := fetch(t, g, 1)[0]
	none(t, g)
	second := fetch(t, g, 1)[0]
	require.Equal(t, 2, second.Attempt)
	require.ErrorIs(t, first.Ack(bg(t)), queue.ErrLeaseLost)
	require.ErrorIs(t, first.Nack(bg(t), 0), queue.ErrLeaseLost)
	require.NoError(t, second.Ack(bg(t)))
	require.ErrorIs(t, second.Ack(bg(t)), queue.ErrLeaseLost)
	none(t, g)
}

func extend(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{Lease: short})
	publish(t, q, queue.Message{Topic: "t"})
	d := fetch(t, g, 1)[0]
	for range 5 {
		none(t, g)
		require.NoError(t, d.Extend(bg(t), 0))
	}
	require.NoError(t, d.Ack(bg(t)))
	none(t, g)
}

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
	g := group(t, q, "t", queue.GroupOptions{Lease: short, MaxDeliveries: 2})
	publish(t, q, queue.Message{Topic: "t", Kind: "k", Body: []byte("poison")})
	require.NoError(t, fetch(t, g, 1)[0].Nack(bg(t), 0))
	require.NoError(t, fetch(t, g, 1)[0].Nack(bg(t), 0))
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

func dedupe(t *testing.T, q *queue.Queue) {
	if q.Caps().DedupeWindow == 0 {
		t.Skip("engine without dedupe")
	}
	g := group(t, q, "t", queue.GroupOptions{})
	require.False(t, publish(t, q, queue.Message{Topic: "t", ID: "a"}).Duplicate)
	require.True(t, publish(t, q, queue.Message{Topic: "t", ID: "a"}).Duplicate)
	require.False(t, publish(t, q, queue.Message{Topic: "t", ID: "b"}).Duplicate)
	rs, err := q.PublishBatch(bg(t), []queue.Message{{Topic: "t", ID: "c"}, {Topic: "t", ID: "a"}, {Topic: "t", ID: "c"}})
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
	at := time.Now().Add(short)
	m := queue.Message{Topic: "t", NotBefore: at}
	if q.Caps().NoDelay {
		refused(t, q, m)
		return
	}
	g := group(t, q, "t", queue.GroupOptions{})
	publish(t, q, m)
	publish(t, q, queue.Message{Topic: "t", Body: []byte("now")})
	require.Equal(t, []string{"now"}, bodies(fetch(t, g, 1)))
	fetch(t, g, 1)
	require.False(t, time.Now().Before(at))
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

func manyConsumers(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	const n = 300
	ctx, cancel := context.WithCancel(bg(t))
	defer cancel()
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				ds, err := g.Fetch(ctx, 7)
				if err != nil {
					return
				}
				if err := g.Ack(ctx, ds...); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				mu.Lock()
				for _, d := range ds {
					seen[string(d.Body)]++
				}
				if len(seen) == n {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	var pub sync.WaitGroup
	for p := range 6 {
		pub.Go(func() {
			for i := range n / 6 {
				if _, err := q.Publish(context.Background(), queue.Message{Topic: "t", Body: fmt.Append(nil, p, "-", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pub.Wait()
	wg.Wait()
	require.Len(t, seen, n)
	for b, k := range seen {
		require.Equal(t, 1, k, b)
	}
}

func lag(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	for range 3 {
		publish(t, q, queue.Message{Topic: "t"})
	}
	d := fetch(t, g, 1)[0]
	time.Sleep(20 * time.Millisecond)
	var l queue.Lag
	require.Eventually(t, func() bool {
		var err error
		l, err = g.Lag(t.Context())
		require.NoError(t, err)
		return l.Ready == 2 && l.InFlight == 1
	}, 5*time.Second, 10*time.Millisecond, "%+v", &l)
	require.GreaterOrEqual(t, l.OldestAge, 20*time.Millisecond)
	require.NoError(t, d.Ack(bg(t)))
}

func peekAndPurge(t *testing.T, q *queue.Queue) {
	g := group(t, q, "t", queue.GroupOptions{})
	for _, b := range []string{"a", "b", "c", "d"} {
		publish(t, q, queue.Message{Topic: "t", Kind: "k", Header: map[string]string{"h": "1"}, Body: []byte(b)})
	}
	d := fetch(t, g, 1)[0]
	ws, err := g.Peek(bg(t), 2)
	require.NoError(t, err)
	require.Len(t, ws, 2)
	for i, w := range ws {
		require.Equal(t, []string{"b", "c"}[i], string(w.Body))
		require.Equal(t, "ready", w.State)
		require.Equal(t, "k", w.Kind)
		require.Equal(t, "1", w.Header["h"])
		require.Zero(t, w.Attempts)
		require.WithinDuration(t, time.Now(), w.Published, time.Minute)
	}
	again, err := g.Peek(bg(t), 2)
	require.NoError(t, err)
	require.Equal(t, ws, again, "looking changes nothing")
	n, err := g.Purge(bg(t))
	require.NoError(t, err)
	require.Equal(t, 3, n)
	none(t, g)
	require.NoError(t, d.Nack(bg(t), 0), "what is in flight is not purged")
	require.Equal(t, []string{"a"}, bodies(fetch(t, g, 1)))
}
