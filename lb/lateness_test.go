package lb

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What was under way when a state changed must not bring the old one back: requests, picks, timers, answers, reports.

// heldPicker is a policy of the user's whose first pick is in the middle when the test does something else.
type heldPicker struct {
	once    *sync.Once
	picking chan struct{}
	goOn    chan struct{}
}

func (h heldPicker) Picker(bs []*Backend) Picker { return heldPick{h, bs} }

type heldPick struct {
	heldPicker
	bs []*Backend
}

func (h heldPick) Pick(Key) *Backend {
	first := h.bs[0]
	h.once.Do(func() { close(h.picking); <-h.goOn })
	return first
}

func TestPickThatDrainOvertakes(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, b *Balancer){
		"drain":  func(t *testing.T, b *Balancer) { require.NoError(t, b.Drain(t.Context(), "b00")) },
		"update": func(t *testing.T, b *Balancer) { require.NoError(t, b.Update(endpoints(2)[1:])) },
	} {
		t.Run(name, func(t *testing.T) {
			h := heldPicker{&sync.Once{}, make(chan struct{}), make(chan struct{})}
			b := newBalancer(t, endpoints(2), Options{Policy: h})
			got := make(chan *Backend, 1)
			go func() {
				l, err := b.Pick(context.Background(), Key{})
				if err != nil {
					got <- nil
					return
				}
				got <- l.Backend()
				l.Done(Result{Status: 200})
			}()
			<-h.picking
			old := b.Backends()[0]
			leave(t, b) // has seen no request in flight: the server may be stopped now
			close(h.goOn)
			require.Equal(t, "b01", (<-got).ID())
			require.Zero(t, old.InFlight())
		})
	}
}

// A pool whose only backend is drained under a pick has none for it.
func TestPickThatDrainOvertakesAlone(t *testing.T) {
	h := heldPicker{&sync.Once{}, make(chan struct{}), make(chan struct{})}
	b := newBalancer(t, endpoints(1), Options{Policy: h})
	failed := make(chan error, 1)
	go func() {
		_, err := b.Pick(context.Background(), Key{})
		failed <- err
	}()
	<-h.picking
	require.NoError(t, b.Drain(t.Context(), "b00"))
	close(h.goOn)
	require.ErrorIs(t, <-failed, ErrNoBackend)
}

func failures(t *testing.T, b *Balancer, be string, n int) {
	t.Helper()
	for done := 0; done < n; {
		l, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		r := Result{Status: 200, Latency: time.Millisecond}
		if l.Backend().ID() == be {
			r = Result{Status: 503, Latency: time.Millisecond}
			done++
		}
		l.Done(r)
	}
}

// The timer of an ejection that checks ended early must not end the next one.
func TestEjectionTimerOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sick := errors.New("sick")
		var mu sync.Mutex
		var health error
		b, err := New(endpoints(3), Options{
			Policy:  inTurn{},
			Outlier: Outlier{Ejection: 10 * time.Second},
			Health: Health{Interval: time.Second, Fall: 1, Rise: 1,
				Probe: func(_ context.Context, tg Target) error {
					mu.Lock()
					defer mu.Unlock()
					if tg.ID == "b00" {
						return health
					}
					return nil
				}},
		})
		require.NoError(t, err)
		defer b.Close()
		set := func(err error) { mu.Lock(); health = err; mu.Unlock() }
		time.Sleep(1500 * time.Millisecond)
		failures(t, b, "b00", 5) // until 11.5
		require.Equal(t, StateEjected, b.Backends()[0].State())
		set(sick)
		time.Sleep(2 * time.Second)
		set(nil)
		time.Sleep(2 * time.Second) // 5.5: checked and found well
		require.Equal(t, StateUp, b.Backends()[0].State())
		failures(t, b, "b00", 5) // the second in a row: until 25.5
		require.Equal(t, StateEjected, b.Backends()[0].State())
		time.Sleep(7 * time.Second)
		require.Equal(t, StateEjected, b.Backends()[0].State(), "the first ejection's time is over, not the second's")
		time.Sleep(14 * time.Second)
		require.Equal(t, StateUp, b.Backends()[0].State())
	})
}

// Requests that hung from before an ejection fail after it: they tell nothing new of a backend that was let in again.
func TestFailuresFromBeforeReadmission(t *testing.T) {
	for name, clean := range map[string]func(t *testing.T, b *Balancer){
		"ejection": func(t *testing.T, b *Balancer) {
			failures(t, b, "b00", 5)
			require.Equal(t, StateEjected, b.Backends()[0].State())
			time.Sleep(6 * time.Second)
		},
		"drain": func(t *testing.T, b *Balancer) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, b.Drain(ctx, "b00"), context.DeadlineExceeded)
			require.NoError(t, b.Undrain("b00"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := New(endpoints(3), Options{Policy: inTurn{}})
				require.NoError(t, err)
				defer b.Close()
				var hung []Pick
				for len(hung) < 10 {
					l, err := b.Pick(t.Context(), Key{})
					require.NoError(t, err)
					if l.Backend().ID() == "b00" {
						hung = append(hung, l)
					} else {
						l.Done(Result{Status: 200, Latency: time.Millisecond})
					}
				}
				time.Sleep(time.Second)
				clean(t, b)
				for _, l := range hung {
					l.Done(Result{Err: errors.New("timeout")})
				}
				require.Equal(t, StateUp, b.Backends()[0].State())
				require.Equal(t, uint64(10), b.Backends()[0].failures.Load()-map[string]uint64{"ejection": 5,
					"drain": 0}[name], "they are counted all the same")
				failures(t, b, "b00", 5)
				require.Equal(t, StateEjected, b.Backends()[0].State(), "new ones count")
			})
		})
	}
}

// A suspicion that a success ended must not take its timer to the next one.
func TestSuspicionTimerOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(2), Options{})
		require.NoError(t, err)
		defer b.Close()
		be := b.Backends()[0]
		be.suspected()
		time.Sleep(600 * time.Millisecond)
		be.cleared(be.suspect.Load())
		be.suspected()
		time.Sleep(600 * time.Millisecond)
		require.NotZero(t, be.suspect.Load(), "0.6 s of 1 s")
		time.Sleep(600 * time.Millisecond)
		require.Zero(t, be.suspect.Load())
	})
}

// State changes reach the hook in their order, one at a time, also when they come while it is at work; nobody waits for
// it.
func TestStateHookInOrder(t *testing.T) {
	type step struct{ from, to BackendState }
	steps := make(chan step, 4)
	inHook, goOn := make(chan struct{}), make(chan struct{})
	first := true // only one hook call at a time: the race detector looks on
	b := newBalancer(t, endpoints(2), Options{Hooks: &Hooks{State: func(_ *Backend, from, to BackendState) {
		if first {
			first = false
			close(inHook)
			<-goOn
		}
		steps <- step{from, to}
	}}})
	require.NoError(t, b.Drain(t.Context(), "b00"))
	<-inHook
	require.NoError(t, b.Undrain("b00"))
	require.NoError(t, b.Drain(t.Context(), "b00"))
	require.NoError(t, b.Undrain("b00"))
	close(goOn)
	up, drain := step{StateUp, StateDraining}, step{StateDraining, StateUp}
	for _, want := range []step{up, drain, up, drain} {
		require.Equal(t, want, <-steps)
	}
}

// A hook may panic, or change the pool itself.
func TestStateHookThatChangesStates(t *testing.T) {
	var b *Balancer
	states := make(chan BackendState, 2)
	b = newBalancer(t, endpoints(2), Options{Logger: slog.New(slog.DiscardHandler),
		Hooks: &Hooks{State: func(be *Backend, _, to BackendState) {
			if be.ID() == "b01" {
				panic("hook")
			}
			if states <- to; to == StateDraining {
				b.Undrain(be.ID())
			}
		}}})
	require.NoError(t, b.Drain(t.Context(), "b01"))
	require.NoError(t, b.Drain(t.Context(), "b00"))
	require.Equal(t, StateDraining, <-states)
	require.Equal(t, StateUp, <-states)
	require.EqualValues(t, 1, b.Stats().CallbackFailures)
	require.Contains(t, b.Stats().LastCallbackError, "hook")
}

// Answers to questions about load overtake each other, and a backend's time out of the pool.
func TestPrequalAnswersOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(endpoints(2), Options{Policy: Prequal(
			PrequalOptions{Probe: func(context.Context, Target) (int, time.Duration, error) {
				return 0, 0, errNoLoad
			}})})
		require.NoError(t, err)
		defer b.Close()
		r, bs := b.prober, b.Backends()
		inFlight := func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, a := range r.pool {
				if a.b == bs[0] {
					return a.inFlight
				}
			}
			return -1
		}
		first := time.Since(began)
		time.Sleep(10 * time.Millisecond)
		second := time.Since(began)
		time.Sleep(10 * time.Millisecond)
		r.take(answer{b: bs[0], inFlight: 2, at: second})
		r.take(answer{b: bs[0], inFlight: 1, at: first})
		require.Equal(t, 2.0, inFlight(), "the later question's answer came first")
		r.drop(bs[0], first)
		require.Equal(t, 2.0, inFlight(), "as a failure too")
		time.Sleep(10 * time.Millisecond)
		third := time.Since(began)
		time.Sleep(10 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.Drain(ctx, "b00")
		require.NoError(t, b.Undrain("b00"))
		r.take(answer{b: bs[0], inFlight: 3, at: third})
		require.Equal(t, -1.0, inFlight(), "asked before it was restarted")
		r.take(answer{b: bs[0], inFlight: 4, at: time.Since(began)})
		require.Equal(t, 4.0, inFlight())
		r.drop(bs[0], time.Since(began))
		require.Equal(t, -1.0, inFlight())
	})
}
