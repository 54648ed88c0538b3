package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// service is a backend tier in virtual time: so many workers, a queue without end, and a time for each request.
type service struct {
	workers chan struct{}
	mean    atomic.Int64
}

func newService(workers int, mean time.Duration) *service {
	s := &service{workers: make(chan struct{}, workers)}
	s.mean.Store(int64(mean))
	return s
}

func (s *service) do(r float64) {
	s.workers <- struct{}{}
	time.Sleep(time.Duration(r * float64(s.mean.Load())))
	<-s.workers
}

// load is what came of the requests of one phase.
type load struct {
	mu        sync.Mutex
	latencies []time.Duration // of those answered
	shed      int
	good      int // answered before the client's patience ended
	err       error
}

func (l *load) p99() time.Duration {
	slices.Sort(l.latencies)
	if len(l.latencies) == 0 {
		return 0
	}
	return l.latencies[len(l.latencies)*99/100]
}

const patience = 250 * time.Millisecond

// offer sends perSecond requests through b for a time, with Poisson arrivals, and waits for all.
func offer(b *Balancer, s *service, rnd *rand.Rand, perSecond float64, length time.Duration) *load {
	return offerTo(b, func(*Backend) *service { return s }, rnd, perSecond, length)
}

func offerTo(b *Balancer, of func(*Backend) *service, rnd *rand.Rand, perSecond float64, length time.Duration) *load {
	l := &load{}
	var wg sync.WaitGroup
	end := time.Now().Add(length)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(rnd.ExpFloat64() / perSecond * float64(time.Second)))
		work := 0.5 + rnd.ExpFloat64()/2
		wg.Go(func() {
			start := time.Now()
			lease, err := b.Pick(context.Background(), Key{})
			if err == nil {
				of(lease.Backend()).do(work)
				lease.Done(Result{Status: 200})
			}
			took := time.Since(start)
			l.mu.Lock()
			defer l.mu.Unlock()
			switch {
			case err == nil:
				l.latencies = append(l.latencies, took)
				if took < patience {
					l.good++
				}
			case errors.Is(err, ErrShed):
				l.shed++
			default:
				l.err = err
			}
		})
	}
	wg.Wait()
	return l
}

// 20 workers of 10 ms can do 2000 requests a second. At twice that, goodput stays with the limit, and is gone without
// it.
func TestOverloadKeepsGoodput(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for seconds")
	}
	t.Parallel()
	run := func(a *Adaptive) (l *load, st Stats) {
		synctest.Test(t, func(t *testing.T) {
			b, err := New(endpoints(1), Options{Adaptive: a})
			require.NoError(t, err)
			defer b.Close()
			l = offer(b, newService(20, 10*time.Millisecond), rand.New(rand.NewPCG(1, 2)), 4000, 10*time.Second)
			st = b.Stats()
		})
		return l, st
	}
	without, _ := run(nil)
	with, st := run(&Adaptive{})
	t.Logf("2x overload for 10 s, answers within %v: %d/s without a limit (p99 %v), %d/s with (p99 %v, limit %d, base %v, %d shed)",
		patience, without.good/10, without.p99(), with.good/10, with.p99(), st.Limit, st.BaseLatency, with.shed)
	require.NoError(t, with.err)
	require.Less(t, without.good, 2000, "most answers come too late")
	require.Greater(t, without.p99(), 5*time.Second)
	require.Greater(t, with.good, 18_000, "nine tenths of what the backends can do")
	require.Less(t, with.p99(), 150*time.Millisecond)
	require.Equal(t, uint64(with.shed), st.Shed)
	require.Zero(t, st.Limited)
	require.Zero(t, st.Queued)
}

func TestLimitFollowsTheService(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for seconds")
	}
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(1), Options{Adaptive: &Adaptive{}})
		require.NoError(t, err)
		defer b.Close()
		rnd := rand.New(rand.NewPCG(3, 4))
		s := newService(20, 10*time.Millisecond)
		total := func(what string, perSecond float64, length time.Duration) *load {
			l := offer(b, s, rnd, perSecond, length)
			st := b.Stats()
			t.Logf("%-28s %6d answered, %6d shed, p99 %v, limit %d, base %v", what, len(l.latencies), l.shed, l.p99(),
				st.Limit, st.BaseLatency)
			require.NoError(t, l.err)
			return l
		}
		require.Zero(t, total("70 % load from the start", 1400, 5*time.Second).shed,
			"no load is refused that the backends can carry")
		total("2x overload for 70 s", 4000, 70*time.Second)
		require.Less(t, total("2x overload still", 4000, 5*time.Second).p99(), 150*time.Millisecond,
			"base does not creep up")
		require.Less(t, total("70 % again", 1400, 5*time.Second).shed, 70)
		s.mean.Store(int64(50 * time.Millisecond)) // five times as slow: capacity is 400 a second
		total("a slower service", 280, 30*time.Second)
		l := total("once it is known", 280, 10*time.Second)
		require.Less(t, l.shed, 28, "what is slow but not overloaded is not held back for ever")
		s.mean.Store(int64(2 * time.Millisecond)) // and now fast
		total("a faster service", 7000, 20*time.Second)
		l = total("2x overload of it", 20_000, 3*time.Second)
		require.Greater(t, l.good, 27_000)
		require.Less(t, l.p99(), 150*time.Millisecond)
	})
}

// One of four backends is five times as slow. By turns it gets a quarter of the requests: too much. One limit for all
// holds back what the others could do; limits of their own send it there.
func TestLimitPerBackend(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for seconds")
	}
	t.Parallel()
	run := func(a *Adaptive, perSecond float64) (l *load, st Stats) {
		synctest.Test(t, func(t *testing.T) {
			services := map[string]*service{}
			for _, e := range endpoints(4) {
				services[e.ID] = newService(10, 10*time.Millisecond)
			}
			services["b02"].mean.Store(int64(50 * time.Millisecond))
			b, err := New(endpoints(4), Options{Policy: inTurn{}, Adaptive: a})
			require.NoError(t, err)
			defer b.Close()
			l = offerTo(b, func(be *Backend) *service {
				return services[be.ID()]
			}, rand.New(rand.NewPCG(7, 8)), perSecond, 20*time.Second)
			st = b.Stats()
		})
		require.NoError(t, l.err)
		require.Equal(t, uint64(l.shed), st.Shed)
		require.Zero(t, st.Queued)
		return l, st
	}
	all, _ := run(&Adaptive{}, 2200)
	each, st := run(&Adaptive{PerBackend: true}, 2200)
	t.Logf("70 %% of what all can do: %d shed, p99 %v with one limit; %d and %v with one each (%d, %d, %d, %d)",
		all.shed, all.p99(), each.shed, each.p99(),
		st.Backends[0].Limit, st.Backends[1].Limit, st.Backends[2].Limit, st.Backends[3].Limit)
	require.Less(t, each.shed, 450, "1 %")
	require.Less(t, each.p99(), 400*time.Millisecond)
	over, _ := run(&Adaptive{PerBackend: true}, 6400)
	t.Logf("2x overload: %d/s answered, %d/s in time, p99 %v", len(over.latencies)/20, over.good/20, over.p99())
	require.Greater(t, len(over.latencies), 20*3000, "of 3200 a second")
	require.Greater(t, over.good, 20*2600)
}

func TestLimiterPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(1), Options{Adaptive: &Adaptive{Initial: 8, Max: 8, Queue: 0.25}})
		require.NoError(t, err)
		defer b.Close()
		var held []Pick
		take := func(priority int8) error {
			l, err := b.Pick(t.Context(), Key{Priority: priority})
			if err == nil {
				held = append(held, l)
			}
			return err
		}
		for range 6 {
			require.NoError(t, take(-1))
		}
		require.ErrorIs(t, take(-1), ErrShed, "three quarters")
		require.NoError(t, take(0))
		require.NoError(t, take(0))
		start := time.Now()
		require.ErrorIs(t, take(0), ErrOverloaded)
		require.Equal(t, 100*time.Millisecond, time.Since(start), "waited")
		require.NoError(t, take(1))
		require.NoError(t, take(1))
		require.ErrorIs(t, take(1), ErrShed)

		got := make(chan error, 3)
		for range 2 {
			go func() {
				l, err := b.Pick(t.Context(), Key{})
				if err == nil {
					l.Done(Result{})
				}
				got <- err
			}()
		}
		synctest.Wait()
		require.Equal(t, 2, b.Stats().Queued)
		start = time.Now()
		_, err = b.Pick(t.Context(), Key{})
		require.ErrorIs(t, err, ErrShed, "the queue is full")
		require.Zero(t, time.Since(start))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Pick(ctx, Key{})
		require.Error(t, err)
		for _, l := range held {
			l.Done(Result{})
		}
		require.NoError(t, <-got)
		require.NoError(t, <-got)
		st := b.Stats()
		require.Zero(t, st.Limited)
		require.Zero(t, st.Queued)
		require.Equal(t, 8, st.Limit)
	})
}

// Timeouts and 503 lower the limit, other failures do not.
func TestLimiterDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			r     Result
			lower bool
		}{
			{Result{Err: context.DeadlineExceeded}, true}, {Result{Status: 503}, true}, {Result{Status: 502}, false},
			{Result{Err: errors.New("refused")}, false},
		} {
			b, err := New(endpoints(1), Options{Adaptive: &Adaptive{}, Outlier: Outlier{Disabled: true}})
			require.NoError(t, err)
			for i := range 2000 {
				l, err := b.Pick(t.Context(), Key{})
				require.NoError(t, err)
				time.Sleep(5 * time.Millisecond)
				if i%3 == 0 {
					l.Done(c.r)
				} else {
					l.Done(Result{Status: 200})
				}
			}
			require.Equal(t, c.lower, b.Stats().Limit < 100, "%+v: %d", c.r, b.Stats().Limit)
			b.Close()
		}
	})
}

func TestShedAnswer(t *testing.T) {
	inside, release := make(chan struct{}, 1), make(chan struct{})
	e, _ := serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-release
		fmt.Fprint(w, "ok")
	})
	b := newBalancer(t, []Endpoint{e}, Options{Adaptive: &Adaptive{Min: 1, Initial: 1, Max: 1, Queue: -1,
		Priority: func(r *http.Request) int { return len(r.Header["X-Vip"]) },
		Exempt:   func(r *http.Request) bool { return r.URL.Path == "/events" },
	}})
	h := handlerOf(t, b)
	get := func(path string, vip bool) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "http://site.example"+path, nil)
		if vip {
			r.Header.Set("X-Vip", "1")
		}
		h.ServeHTTP(w, r)
		return w
	}
	var wg sync.WaitGroup
	for _, c := range []struct {
		path string
		vip  bool
	}{{"/", false}, {"/", true}, {"/events", false}} {
		wg.Go(func() {
			if w := get(c.path, c.vip); w.Code != 200 {
				t.Error(c, w.Code)
			}
		})
		<-inside
	}
	w := get("/", false)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, http.StatusServiceUnavailable, get("/", true).Code)
	require.Equal(t, 2, b.Stats().Limited)
	close(release)
	wg.Wait()
	require.Zero(t, b.Stats().Limited)

	_, err := b.RoundTripper(nil).RoundTrip(httptest.NewRequest("GET", "http://site.example/",
		nil).WithContext(func() context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx
	}()))
	require.Error(t, err)
	require.Zero(t, b.Stats().Limited)
}

func TestAdaptiveOptions(t *testing.T) {
	for _, a := range []Adaptive{{Min: -1}, {Min: 10, Max: 5}, {Initial: 3}, {Tolerance: 0.5}, {Window: -1},
		{Queue: 1000}} {
		_, err := New(endpoints(1), Options{Adaptive: &a})
		require.ErrorContains(t, err, "Options.Adaptive", a)
	}
	a, err := Adaptive{Min: 500}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, 500, a.Initial)
}
