package cron

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) *queue.Queue {
	q, err := queue.Open(t.TempDir(), queue.Options{SegmentBytes: 1 << 20, UnsafeNoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

func times(t *testing.T, zone, spec, from string, n int) (out []string) {
	loc, err := time.LoadLocation(zone)
	require.NoError(t, err)
	s, err := New(open(t), Entry{Name: "x", Spec: spec, Location: loc})
	require.NoError(t, err)
	at, err := time.ParseInLocation("2006-01-02 15:04", from, loc)
	require.NoError(t, err)
	for range n {
		at = s.entries[0].next(at)
		out = append(out, at.Format("01-02 15:04 MST"))
	}
	return out
}

func TestDaylightSaving(t *testing.T) {
	// Berlin: on 29 March 2026 02:00 becomes 03:00, on 25 October 03:00 becomes 02:00 again.
	require.Equal(t, []string{"03-28 02:30 CET", "03-30 02:30 CEST"},
		times(t, "Europe/Berlin", "30 2 * * *", "2026-03-27 12:00", 2))
	require.Equal(t, []string{"10-24 02:30 CEST", "10-25 02:30 CEST", "10-26 02:30 CET"},
		times(t, "Europe/Berlin", "30 2 * * *", "2026-10-23 12:00", 3))
	require.Equal(t, []string{"10-25 02:00 CEST", "10-25 02:30 CEST", "10-25 02:00 CET", "10-25 02:30 CET",
		"10-25 03:00 CET"},
		times(t, "Europe/Berlin", "*/30 * * * *", "2026-10-25 01:45", 5))
	require.Equal(t, []string{"03-29 01:30 CET", "03-29 03:00 CEST"},
		times(t, "Europe/Berlin", "*/30 * * * *", "2026-03-29 01:10", 2))
	// Lord Howe Island shifts by half an hour: on 5 April 2026 02:00 becomes 01:30.
	require.Equal(t, []string{"04-04 01:45 +11", "04-05 01:45 +11", "04-06 01:45 +1030"},
		times(t, "Australia/Lord_Howe", "45 1 * * *", "2026-04-03 12:00", 3))
	require.Equal(t, []string{"01-01 00:10 UTC", "01-01 00:20 UTC"},
		times(t, "UTC", "@every 10m", "2026-01-01 00:05", 2))
}

// Two servers run the same schedule, one of them restarts: every message comes once.
func TestOncePerTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := queue.Open(t.TempDir(), queue.Options{SegmentBytes: 1 << 20, UnsafeNoSync: true})
		require.NoError(t, err)
		defer q.Close()
		g, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{})
		require.NoError(t, err)
		e := Entry{Name: "report", Spec: "*/5 * * * *",
			Message: queue.Message{Topic: "t", Kind: "report", Header: map[string]string{"a": "b"}},
			CatchUp: 5 * time.Minute}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		start := func(ctx context.Context) {
			s, err := New(q, e)
			require.NoError(t, err)
			wg.Go(func() { require.NoError(t, s.Run(ctx, func(err error) { t.Error(err) })) })
		}
		start(ctx)
		first, stop := context.WithCancel(ctx)
		start(first)
		time.Sleep(17 * time.Minute)
		stop()
		time.Sleep(time.Minute)
		start(ctx)
		time.Sleep(43 * time.Minute)
		cancel()
		wg.Wait()
		l, err := g.Lag(t.Context())
		require.NoError(t, err)
		ds, err := g.Fetch(t.Context(), 100)
		require.NoError(t, err)
		require.Len(t, ds, l.Ready)
		require.InDelta(t, 13, len(ds), 1)
		last := ""
		for _, d := range ds {
			require.Greater(t, d.Header[HeaderScheduled], last)
			last = d.Header[HeaderScheduled]
			require.Equal(t, "b", d.Header["a"])
		}
	})
}

type flaky struct {
	queue.Driver
	fail bool
}

func (f *flaky) Publish(ctx context.Context, m []queue.Message, r []queue.Receipt) error {
	if f.fail {
		return errors.New("down")
	}
	r[0] = queue.Receipt{Seq: 1}
	return nil
}
func (f *flaky) Caps() queue.Caps { return queue.Caps{DedupeWindow: time.Hour} }
func (f *flaky) Close() error     { return nil }

func TestPublishIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &flaky{fail: true}
		q := queue.New(d)
		s, err := New(q, Entry{Name: "x", Spec: "@hourly"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		failed := 0
		require.NoError(t, s.Run(ctx, func(error) {
			if failed++; failed == 5 {
				d.fail = false
			}
		}))
		require.Equal(t, 5, failed)
	})
}

func TestEntriesAreChecked(t *testing.T) {
	q := open(t)
	for field, e := range map[string]Entry{"Name": {Spec: "@daily"}, "Spec": {Name: "x", Spec: "61 * * * *"},
		"CatchUp": {Name: "x", Spec: "@daily", CatchUp: time.Hour}} {
		_, err := New(q, e)
		require.ErrorContains(t, err, field)
	}
	_, err := New(q, Entry{Name: "x", Spec: "@daily"}, Entry{Name: "x", Spec: "@daily"})
	require.ErrorContains(t, err, "unique")
}
