package queue_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const small = 256 << 10 // segments, so that tests see many of them

func open(t testing.TB, dir string, o queue.Options) *queue.Queue {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = small
	}
	q, err := queue.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

func TestConformance(t *testing.T) {
	queuetest.Run(t, func(t *testing.T) *queue.Queue { return open(t, t.TempDir(), queue.Options{}) })
}

func publish(t testing.TB, q *queue.Queue, m queue.Message) queue.Receipt {
	r, err := q.Publish(t.Context(), m)
	require.NoError(t, err)
	return r
}

func group(t testing.TB, q *queue.Queue, o queue.GroupOptions) *queue.Group {
	g, err := q.Group(t.Context(), "t", "g", o)
	require.NoError(t, err)
	return g
}

func fetchN(t testing.TB, g *queue.Group, n int) (ds []*queue.Delivery) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(ds) < n {
		more, err := g.Fetch(ctx, n-len(ds))
		require.NoError(t, err)
		ds = append(ds, more...)
	}
	return ds
}

func nothing(t testing.TB, g *queue.Group) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	ds, err := g.Fetch(ctx, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded, "%v", ds)
}

func TestReopenKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{MaxDeliveries: 3})
	for i := range 10 {
		publish(t, q, queue.Message{Topic: "t", ID: fmt.Sprint("id", i), Body: fmt.Append(nil, i)})
	}
	ds := fetchN(t, g, 4)
	require.NoError(t, ds[0].Ack(t.Context()))
	require.NoError(t, ds[1].Nack(t.Context(), time.Hour))
	require.NoError(t, ds[2].Term(t.Context(), "bad"))
	publish(t, q, queue.Message{Topic: "t", Body: []byte("later"), NotBefore: time.Now().Add(time.Hour)})
	publish(t, q, queue.Message{Topic: "nobody", Body: []byte("orphan")})
	require.NoError(t, q.Close())
	require.NoError(t, q.Close())
	_, err := q.Publish(t.Context(), queue.Message{})
	require.ErrorIs(t, err, queue.ErrClosed)
	_, err = g.Fetch(t.Context(), 1)
	require.ErrorIs(t, err, queue.ErrClosed)

	q = open(t, dir, queue.Options{})
	g = group(t, q, queue.GroupOptions{MaxDeliveries: 3})
	for i := range 10 {
		require.True(t, publish(t, q, queue.Message{Topic: "t", ID: fmt.Sprint("id", i)}).Duplicate)
	}
	l, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.Equal(t, queue.Lag{Ready: 7, Delayed: 2, Dead: 1, OldestAge: l.OldestAge}, l)
	ds = fetchN(t, g, 7)
	require.Equal(t, "3", string(ds[0].Body))
	require.Equal(t, 2, ds[0].Attempt, "the lease of before counts")
	require.Equal(t, 1, ds[1].Attempt)
	letters, err := g.Dead(t.Context(), 5)
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, "bad", letters[0].Reason)
	og, err := q.Group(t.Context(), "nobody", "first", queue.GroupOptions{})
	require.NoError(t, err)
	require.Equal(t, "orphan", string(fetchN(t, og, 1)[0].Body))
}

func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, queue.Options{})
	_, err := queue.Open(dir, queue.Options{})
	require.ErrorIs(t, err, queue.ErrLocked)
}

func TestOptionsNameTheField(t *testing.T) {
	for name, o := range map[string]queue.Options{
		"SegmentBytes": {SegmentBytes: 5}, "DedupeMax": {DedupeMax: -1}, "MaxBytes": {MaxBytes: -1},
		"MaxDepth": {MaxDepth: -1},
	} {
		_, err := queue.Open(t.TempDir(), o)
		require.ErrorContains(t, err, name)
	}
	q := open(t, t.TempDir(), queue.Options{})
	_, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{Lease: 1})
	require.ErrorContains(t, err, "Lease")
	_, err = q.Publish(t.Context(), queue.Message{Body: make([]byte, small)})
	require.ErrorIs(t, err, queue.ErrTooLarge)
}

// Settled segments are given back, and one old message does not pin the others.
func TestLogDoesNotGrow(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{DedupeWindow: time.Hour})
	g := group(t, q, queue.GroupOptions{})
	body := make([]byte, 4000)
	publish(t, q, queue.Message{Topic: "t", ID: "old one", Body: []byte("old")})
	old := fetchN(t, g, 1)[0]
	for i := range 2000 { // 8 MB through segments of 256 KiB
		publish(t, q, queue.Message{Topic: "t", ID: fmt.Sprint(i), Body: body})
		require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
	}
	require.Eventually(t, func() bool { return segments(t, dir) <= 10 }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, old.Extend(t.Context(), 0))
	require.NoError(t, q.Close())

	q = open(t, dir, queue.Options{DedupeWindow: time.Hour})
	g = group(t, q, queue.GroupOptions{})
	d := fetchN(t, g, 1)[0]
	require.Equal(t, "old", string(d.Body))
	require.Equal(t, 2, d.Attempt)
	nothing(t, g)
	for _, id := range []string{"old one", "0", "1", "1000", "1999"} {
		require.True(t, publish(t, q, queue.Message{Topic: "t", ID: id}).Duplicate, id)
	}
	require.NoError(t, d.Ack(t.Context()))
	require.Zero(t, q.Stats().LiveBytes)
}

func segments(t testing.TB, dir string) int {
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	return len(names)
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	publish(t, q, queue.Message{})
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range es {
		st, err := e.Info()
		require.NoError(t, err)
		require.EqualValues(t, 0o600, st.Mode().Perm(), e.Name())
	}
}

func TestLimits(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{MaxDepth: 2})
	g := group(t, q, queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t"})
	publish(t, q, queue.Message{Topic: "t"})
	_, err := q.Publish(t.Context(), queue.Message{Topic: "t"})
	require.ErrorIs(t, err, queue.ErrFull)
	require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
	publish(t, q, queue.Message{Topic: "t"})

	q = open(t, t.TempDir(), queue.Options{MaxDepth: 1, Block: true})
	g = group(t, q, queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t"})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = q.Publish(ctx, queue.Message{Topic: "t"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var wg sync.WaitGroup
	wg.Go(func() { publish(t, q, queue.Message{Topic: "t"}) })
	require.NoError(t, fetchN(t, g, 1)[0].Ack(t.Context()))
	wg.Wait()
}

func TestLateGroupGetsOnlyWhatFollows(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	group(t, q, queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t", Body: []byte("1")})
	_, err := q.Group(t.Context(), "t", "late", queue.GroupOptions{})
	require.NoError(t, err)
	publish(t, q, queue.Message{Topic: "t", Body: []byte("2")})
	q.Close()
	q = open(t, dir, queue.Options{})
	late, err := q.Group(t.Context(), "t", "late", queue.GroupOptions{})
	require.NoError(t, err)
	require.Equal(t, "2", string(fetchN(t, late, 1)[0].Body))
	nothing(t, late)
}

func TestStatsAreTagged(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{})
	group(t, q, queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t"})
	s := q.Stats()
	require.EqualValues(t, 1, s.Published)
	require.EqualValues(t, 1, s.Groups[0].Ready)
	require.Positive(t, s.LogBytes)
	require.Positive(t, s.Commits)
}

func TestPublishDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	q := open(t, t.TempDir(), queue.Options{UnsafeNoSync: true, SegmentBytes: 64 << 20})
	ctx := t.Context()
	body := make([]byte, 100)
	m := queue.Message{Topic: "t", ID: "", Kind: "k", Body: body}
	publish(t, q, m)
	n := testing.AllocsPerRun(2000, func() {
		if _, err := q.Publish(ctx, m); err != nil {
			t.Fatal(err)
		}
	})
	require.Less(t, n, 1.0)
}
