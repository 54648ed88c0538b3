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

// Run runs the suite. open returns a queue that no other test uses, and closes it with t.Cleanup. What the engine's
// Caps exclude must be answered with ErrUnsupported, and is otherwise left out.
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
	t.Helper()
	require.NoError(t, idle(t, g))
}

// idle is none as an error.
func idle(t *testing.T, g *queue.Group) error {
	ctx, cancel := context.WithTimeout(t.Context(), short/2)
	defer cancel()
	if ds, err := g.Fetch(ctx, 1); !errors.Is(err, context.DeadlineExceeded) || len(ds) > 0 {
		return fmt.Errorf("expected no message until the deadline, got %d: %v", len(ds), err)
	}
	return nil
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
	m := queue.Message{Topic: "t", Kind: "resize", ID: "id-1",
		Header: map[string]string{"traceparent": "00-1", "x": ""}, Body: []byte{0, 1, 255}}
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

// attempt is one run of a test whose steps must follow each other within a lease.
type attempt struct {
	topic string
	slow  bool // it took longer: the machine stood still, or the engine did
}

// within notes whether a lease that began at the earliest at the given time may have ended.
func (a *attempt) within(lease time.Time) { a.slow = a.slow || time.Since(lease) >= short }

// repeated runs f until it passes. Where a lease may have ended under its hands it begins anew, for a while; otherwise
// its error counts.
func repeated(t *testing.T, f func(a *attempt) error) {
	t.Helper()
	for i, end := 0, time.Now().Add(time.Minute); ; i++ {
		a := &attempt{topic: fmt.Sprint("t", i)}
		err := f(a)
		if err == nil {
			return
		}
		if !a.slow || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func lease(t *testing.T, q *queue.Queue) {
	repeated(t, func(a *attempt) error {
		g := group(t, q, a.topic, queue.GroupOptions{Lease: short})
		publish(t, q, queue.Message{Topic: a.topic, Body: []byte("x")})
		began := time.Now()
		first := fetch(t, g, 1)[0]
		err := idle(t, g)
		a.within(began)
		if err != nil {
			return err
		}
		began = time.Now()
		second := fetch(t, g, 1)[0]
		require.Equal(t, 2, second.Attempt)
		require.ErrorIs(t, first.Ack(bg(t)), queue.ErrLeaseLost)
		require.ErrorIs(t, first.Nack(bg(t), 0), queue.ErrLeaseLost)
		err = second.Ack(bg(t))
		a.within(began)
		if err != nil {
			return err
		}
		require.ErrorIs(t, second.Ack(bg(t)), queue.ErrLeaseLost)
		none(t, g)
		return nil
	})
}

func extend(t *testing.T, q *queue.Queue) {
	repeated(t, func(a *attempt) error {
		g := group(t, q, a.topic, queue.GroupOptions{Lease: short})
		publish(t, q, queue.Message{Topic: a.topic})
		began := time.Now()
		d := fetch(t, g, 1)[0]
		for range 5 {
			err := idle(t, g)
			asked := time.Now()
			err = errors.Join(err, d.Extend(bg(t), 0))
			a.within(began)
			if err != nil {
				return err
			}
			began = asked
		}
		err := d.Ack(bg(t))
		a.within(began)
		if err != nil {
			return err
		}
		none(t, g)
		return nil
	})
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
				if _, err := q.Publish(context.Background(),
					queue.Message{Topic: "t", Body: fmt.Append(nil, p, "-", i)}); err != nil {
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
