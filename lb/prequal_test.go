package lb

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var errNoLoad = errors.New("does not say")

// unasked is a balancer whose backends answer no probe: a test fills its pool itself.
func unasked(t *testing.T, n int, o PrequalOptions) (*Balancer, *prober) {
	o.Probe = func(context.Context, Target) (int, time.Duration, error) { return 0, 0, errNoLoad }
	b := newBalancer(t, endpoints(n), Options{Policy: Prequal(o)})
	return b, b.prober
}

func TestPrequalHotCold(t *testing.T) {
	b, r := unasked(t, 50, PrequalOptions{})
	bs := b.Backends()
	now := time.Since(began)
	for range 20 { // what is usual: two in flight
		r.take(answer{b: bs[0], inFlight: 2, latency: 10 * time.Millisecond, at: now})
	}
	r.take(answer{b: bs[1], inFlight: 1, latency: 20 * time.Millisecond, at: now})
	r.take(answer{b: bs[2], inFlight: 9, latency: time.Millisecond, at: now})
	r.take(answer{b: bs[3], inFlight: 5, latency: 2 * time.Millisecond, at: now})
	choose := func() *Backend {
		r.mu.Lock()
		defer r.mu.Unlock()
		kept := append([]answer(nil), r.pool...)
		b := r.choose(now)
		r.pool = append(r.pool[:0], kept...)
		return b
	}
	require.Equal(t, "b00", choose().id, "the fastest of those that are not hot, though hot ones are faster")
	bs[0].suspect.Store(1)
	require.Equal(t, "b01", choose().id, "a failing one is left out")
	r.drop(bs[1], now)
	require.Equal(t, "b03", choose().id, "all hot: the fewest in flight")
	r.drop(bs[3], now)
	r.drop(bs[0], now)
	require.Nil(t, choose(), "one answer is no choice")
	r.take(answer{b: bs[1], inFlight: 0, latency: time.Millisecond, at: now - 2*time.Second})
	r.take(answer{b: bs[3], inFlight: 0, latency: time.Millisecond, at: now})
	require.Equal(t, "b03", choose().id, "not what is too old")
}

func TestPrequalPool(t *testing.T) {
	b, r := unasked(t, 50, PrequalOptions{Pool: 4})
	bs := b.Backends()
	now := time.Since(began)
	for i, be := range bs[:6] {
		r.take(answer{b: be, inFlight: 1, latency: time.Duration(i) * time.Millisecond, at: now + time.Duration(i)})
	}
	ids := func() (s string) {
		for _, a := range r.pool {
			s += a.b.id
		}
		return s
	}
	require.Equal(t, "b04b05b02b03", ids(), "the oldest give way")
	r.take(answer{b: bs[3], inFlight: 0, latency: time.Millisecond, at: now + 10})
	require.Equal(t, "b04b05b02b03", ids(), "one answer for each")
	r.mu.Lock()
	require.Equal(t, "b03", r.choose(now+10).id)
	r.mu.Unlock()
	require.Equal(t, "b04b02b03", ids(), "the worst is taken out")
	r.mu.Lock()
	r.choose(now + 10)
	r.mu.Unlock()
	require.Len(t, r.pool, 2, "then the oldest")
	require.NoError(t, b.Update(endpoints(50)[4:]))
	require.NotContains(t, ids(), "b02")
	r.take(answer{b: bs[0], at: now + 20})
	require.NotContains(t, ids(), "b00", "nor what answers after it has left")
}

// An answer is not used for ever: each request that it sent counts on top of it.
func TestPrequalReuse(t *testing.T) {
	b, r := unasked(t, 50, PrequalOptions{})
	require.Equal(t, 2, r.uses)
	bs := b.Backends()
	now := time.Since(began)
	for range 20 { // what is usual
		r.take(answer{b: bs[2], inFlight: 5, latency: time.Second, at: now})
	}
	r.drop(bs[2], now)
	r.take(answer{b: bs[0], inFlight: 0, latency: time.Millisecond, at: now})
	r.take(answer{b: bs[1], inFlight: 0, latency: 3 * time.Millisecond, at: now})
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Equal(t, "b00", r.choose(now).id)
	require.Equal(t, 1.0, r.pool[0].inFlight)
	require.Equal(t, 2*time.Millisecond, r.pool[0].latency)
	require.Equal(t, "b00", r.choose(now).id)
	require.Nil(t, r.choose(now), "used up")
}

func TestPrequalOptions(t *testing.T) {
	for _, o := range []PrequalOptions{{Rate: -1}, {Pool: -1}, {MaxAge: -1}, {Hot: 2}} {
		_, err := New(endpoints(1), Options{Policy: Prequal(o)})
		require.ErrorContains(t, err, "Prequal")
	}
	b := newBalancer(t, nil, Options{Policy: Prequal(PrequalOptions{Path: "status/load"})})
	require.Equal(t, "/status/load", b.prober.o.Path)
	_, err := b.Pick(t.Context(), Key{})
	require.ErrorIs(t, err, ErrNoBackend)
}

func TestPrequalSharesByWeight(t *testing.T) {
	es := endpoints(10)
	for i := range es {
		es[i].Weight = float64(1 + i%2)
	}
	b := newBalancer(t, es, Options{Policy: Prequal(
		PrequalOptions{Probe: func(context.Context, Target) (int, time.Duration, error) {
			return 0, 0, errNoLoad
		}})})
	for _, be := range b.Backends() { // as many per weight on each
		b.prober.take(answer{b: be, inFlight: 4 * be.Weight(), latency: 10 * time.Millisecond, at: time.Since(began)})
	}
	for _, a := range b.prober.pool {
		require.InDelta(t, 6, a.inFlight, 1e-9, a.b.id)
	}
}
