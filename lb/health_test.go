package lb

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// share picks n times and returns how often each backend came.
func share(t *testing.T, b *Balancer, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		l, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		got[l.Backend().ID()]++
		l.Done(Result{Status: 200, Latency: time.Millisecond})
	}
	return got
}

func TestActiveChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Bool
		var log []string
		b, err := New(endpoints(3), Options{
			Policy: inTurn{},
			Health: Health{Interval: time.Second, Fall: 3, Rise: 2,
				Probe: func(_ context.Context, tg Target) error {
					if tg.ID == "b01" && sick.Load() {
						return errors.New("sick")
					}
					return nil
				}},
			Hooks: &Hooks{State: func(be *Backend, from, to BackendState) {
				log = append(log, be.ID()+":"+from.String()+">"+to.String())
			}},
		})
		require.NoError(t, err)
		defer b.Close()
		require.Len(t, share(t, b, 30), 3, "unknown counts as up")
		time.Sleep(5 * time.Second)
		sick.Store(true)
		time.Sleep(3400 * time.Millisecond)
		require.Len(t, share(t, b, 30), 2, "three failed checks and it is out")
		require.Equal(t, "down", b.Stats().Backends[1].State)
		sick.Store(false)
		time.Sleep(800 * time.Millisecond) // at most one check
		require.Len(t, share(t, b, 30), 2, "one success is not enough")
		time.Sleep(2 * time.Second)
		require.Len(t, share(t, b, 30), 3)
		b.Close()
		require.Equal(t, []string{"b01:up>down", "b01:down>up"}, log)
	})
}

func TestOutlierEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(4), Options{Policy: inTurn{}})
		require.NoError(t, err)
		defer b.Close()
		fail := func(ids ...string) {
			for range 400 {
				l, err := b.Pick(t.Context(), Key{})
				require.NoError(t, err)
				r := Result{Status: 200}
				for _, id := range ids {
					if l.Backend().ID() == id {
						r = Result{Status: 503}
					}
				}
				l.Done(r)
			}
		}
		fail("b00")
		require.NotContains(t, share(t, b, 40), "b00")
		fail("b01", "b02", "b03")
		require.Len(t, share(t, b, 40), 2, "at most half are ejected")
		time.Sleep(5100 * time.Millisecond)
		require.Len(t, share(t, b, 40), 4, "back after the ejection")
		fail("b00")
		time.Sleep(5100 * time.Millisecond)
		require.NotContains(t, share(t, b, 40), "b00", "the second ejection lasts longer")
		time.Sleep(5 * time.Second)
		require.Contains(t, share(t, b, 40), "b00")
	})
}

func TestLastBackendIsNeverEjected(t *testing.T) {
	b := newBalancer(t, endpoints(1), Options{})
	for range 100 {
		l, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		l.Done(Result{Err: errors.New("boom")})
	}
}

func TestPanicPriorityZone(t *testing.T) {
	var down sync.Map
	es := endpoints(6)
	for i := range es {
		es[i].Priority = i / 4 // b00 to b03 first, b04 and b05 are backups
		es[i].Zone = []string{"near", "far"}[i%2]
	}
	synctest.Test(t, func(t *testing.T) {
		b, err := New(es, Options{Policy: inTurn{}, Zone: "near",
			Health: Health{Fall: 1, Rise: 1, Probe: func(_ context.Context, tg Target) error {
				if _, is := down.Load(tg.ID); is {
					return errors.New("down")
				}
				return nil
			}}})
		require.NoError(t, err)
		defer b.Close()
		settle := func(ids ...string) map[string]int {
			down.Clear()
			for _, id := range ids {
				down.Store(id, true)
			}
			time.Sleep(3 * time.Second)
			return share(t, b, 60)
		}
		require.Equal(t, map[string]int{"b00": 30, "b02": 30}, settle(), "the near half of the first priority")
		require.Equal(t, map[string]int{"b02": 60}, settle("b00"), "half of the zone still")
		require.Equal(t, map[string]int{"b01": 30, "b03": 30}, settle("b00", "b02"), "the zone is gone")
		require.Equal(t, map[string]int{"b04": 60}, settle("b00", "b01", "b02"),
			"backups, when too few of the first are left")
		got := settle("b00", "b01", "b02", "b03", "b04", "b05")
		require.Len(t, got, 4, "panic: all of the first priority")
		require.True(t, b.Stats().Panic)
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(2), Options{Policy: inTurn{}})
		require.NoError(t, err)
		defer b.Close()
		var l Pick
		for l.b == nil || l.b.ID() != "b00" {
			l, _ = b.Pick(t.Context(), Key{})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, b.Drain(ctx, "b00"), context.DeadlineExceeded, "a request is in flight")
		require.Equal(t, map[string]int{"b01": 10}, share(t, b, 10))
		done := make(chan error)
		go func() { done <- b.Drain(t.Context(), "b00") }()
		time.Sleep(time.Second)
		l.Done(Result{})
		require.NoError(t, <-done)
		require.NoError(t, b.Update(endpoints(2)))
		require.Len(t, share(t, b, 10), 1, "an update does not end a drain")
		require.NoError(t, b.Undrain("b00"))
		require.Len(t, share(t, b, 10), 2)
		require.ErrorIs(t, b.Drain(t.Context(), "nobody"), ErrUnknownBackend)
	})
}

func TestConnectionLimitAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(2), Options{MaxConns: 1, MaxQueue: 2, QueueTimeout: time.Second})
		require.NoError(t, err)
		defer b.Close()
		a, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		c, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		require.NotSame(t, a.b, c.b)
		got := make(chan error, 3)
		for range 2 {
			go func() {
				l, err := b.Pick(t.Context(), Key{})
				if err == nil {
					time.Sleep(10 * time.Millisecond)
					l.Done(Result{})
				}
				got <- err
			}()
		}
		synctest.Wait()
		require.Equal(t, 2, b.Stats().Queued)
		_, err = b.Pick(t.Context(), Key{})
		require.ErrorIs(t, err, ErrOverloaded, "the queue is full")
		time.Sleep(500 * time.Millisecond)
		a.Done(Result{})
		require.NoError(t, <-got)
		require.NoError(t, <-got, "the second gets the first one's place")
		_, err = b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		start := time.Now()
		_, err = b.Pick(t.Context(), Key{})
		require.ErrorIs(t, err, ErrOverloaded)
		require.Equal(t, time.Second, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = b.Pick(ctx, Key{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, b.Stats().Queued)
		c.Done(Result{})
	})
}

func TestInvalidOptionsNameTheField(t *testing.T) {
	for want, o := range map[string]Options{
		"PanicThreshold": {PanicThreshold: 2}, "Subset.ID": {Subset: Subset{Size: 3}}, "SlowStart": {SlowStart: -1},
		"Outlier": {Outlier: Outlier{MaxShare: 2}},
	} {
		_, err := New(endpoints(1), o)
		require.ErrorContains(t, err, want)
	}
	for want, o := range map[string]ProxyOptions{
		"Sticky.Keys": {Sticky: &Sticky{Keys: []StickyKey{{ID: "a", Secret: []byte("short")}}}},
		"MaxBody":     {MaxBody: -1},
	} {
		_, err := newBalancer(t, nil, Options{}).Handler(o)
		require.ErrorContains(t, err, want)
	}
	for want, e := range map[string]Endpoint{
		"Addr": {Addr: "nowhere"}, "Scheme": {Addr: "a:1", Scheme: "ftp"}, "Weight": {Addr: "a:1", Weight: -1},
		"MaxConns": {Addr: "a:1", MaxConns: -1},
	} {
		_, err := New([]Endpoint{e}, Options{})
		require.ErrorContains(t, err, want)
	}
	_, err := New([]Endpoint{{Addr: "a:1"}, {Addr: "a:1"}}, Options{})
	require.ErrorContains(t, err, "twice")
	b := newBalancer(t, nil, Options{})
	_, err = b.Pick(t.Context(), Key{})
	require.ErrorIs(t, err, ErrNoBackend)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, err = b.Pick(t.Context(), Key{})
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, b.Update(nil), ErrClosed)
}

func TestSubsetSpreadsEvenly(t *testing.T) {
	seen := map[string]int{}
	for i := range 100 {
		b := newBalancer(t, endpoints(20), Options{Subset: Subset{Size: 5, ID: string(rune('A' + i))}})
		require.Len(t, b.Backends(), 5)
		for _, be := range b.Backends() {
			seen[be.ID()]++
		}
	}
	require.Len(t, seen, 20)
	for id, n := range seen {
		require.InDelta(t, 25, n, 15, id)
	}
}
