package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/hooktest"
)

func TestJoinHooks(t *testing.T) { hooktest.JoinsAll(t, JoinHooks) }

// methods calls each method of b in some valid way, without real sockets.
func methods(b *Balancer) map[string]func() {
	h, _ := b.Handler(ProxyOptions{})
	return map[string]func(){
		"AdminHandler": func() { b.AdminHandler(nil) },
		"Attempts":     func() { b.Attempts(Key{}) },
		"Backends":     func() { b.Backends() },
		"Drain": func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			b.Drain(ctx, "b01")
		},
		"Handler":   func() { _ = h },
		"Options":   func() { b.Options() },
		"PlainHTTP": func() { b.PlainHTTP() },
		"Pick": func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			if p, err := b.Pick(ctx, Key{}); err == nil {
				p.Done(Result{})
			}
		},
		"RoundTripper": func() { b.RoundTripper(nil) },
		"Stats":        func() { b.Stats() },
		"Undrain":      func() { b.Undrain("b01") },
		"Update":       func() { b.Update(endpoints(3)) },
	}
}

// proof shows that a callback cannot hold a balancer up. The options come from make; trigger makes the balancer call
// it.
func proof(t *testing.T, trigger func(b *Balancer), make func(misbehave func()) Options) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		o := make(misbehave)
		o.Logger = slog.New(slog.DiscardHandler)
		b, err := New(endpoints(3), o)
		require.NoError(t, err)
		return hooktest.Subject{
			Object: b, Methods: methods(b), Leave: []string{"Answers", "CurrentPicker"}, Close: func() { b.Close() },
			Trigger: func() { trigger(b) },
			Works: func() error { // another request is picked for and ends, and a backend can be drained, at once
				start := time.Now()
				s := b.snap.Load()
				be := s.take(Key{}, nil)
				if be == nil {
					return errors.New("no backend")
				}
				be.ended()
				if err := b.Undrain("b02"); err != nil {
					return err
				}
				if n := b.Stats().InFlight; n > 1 { // the one of the trigger may be under way
					return fmt.Errorf("%d in flight", n)
				}
				if took := time.Since(start); took > time.Second {
					return fmt.Errorf("took %v", took)
				}
				return nil
			},
			AfterExit: func() error {
				time.Sleep(time.Second)
				if n := b.Stats().InFlight; n != 0 {
					return fmt.Errorf("%d in flight", n)
				}
				return nil
			},
		}
	})
}

func pickAndFail(b *Balancer) {
	a := b.Attempts(Key{})
	for a.Next(context.Background()) {
		err := errors.New("failed")
		a.Pick.Done(Result{Err: err})
		if !a.Again(err, true) {
			return
		}
	}
}

func TestCallbackProofs(t *testing.T) {
	drain := func(b *Balancer) { b.Drain(context.Background(), "b00") }
	for name, c := range map[string]struct {
		trigger func(b *Balancer)
		make    func(misbehave func()) Options
	}{
		"Hooks.State": {drain, func(f func()) Options {
			return Options{Hooks: &Hooks{State: func(*Backend, BackendState, BackendState) { f() }}}
		}},
		"Hooks.Picked": {pickAndFail, func(f func()) Options {
			return Options{Hooks: &Hooks{Picked: func(*Backend, int) { f() }}}
		}},
		"Hooks.Done": {pickAndFail, func(f func()) Options {
			return Options{Hooks: &Hooks{Done: func(*Backend, Result) { f() }}}
		}},
		"Hooks.Retry": {pickAndFail, func(f func()) Options {
			return Options{Hooks: &Hooks{Retry: func(*Backend, error) { f() }}}
		}},
		"Health.Probe": {func(*Balancer) {}, func(f func()) Options {
			return Options{Health: Health{Interval: time.Second, Probe: func(context.Context, Target) error {
				f()
				return nil
			}}}
		}},
		"PrequalOptions.Probe": {pickAndFail, func(f func()) Options {
			return Options{Policy: Prequal(PrequalOptions{
				Probe: func(context.Context, Target) (int, time.Duration, error) {
					f()
					return 0, 0, errNoLoad
				}})}
		}},
		"Options.Key": {func(b *Balancer) {
			h, _ := b.Handler(ProxyOptions{})
			h.Key(httptest.NewRequest("GET", "/", nil))
		}, func(f func()) Options {
			return Options{Key: func(*http.Request, netip.Addr) (uint64, bool) { f(); return 0, false }}
		}},
		"Retry.Idempotent": {roundTrip, func(f func()) Options {
			return Options{Retry: Retry{Idempotent: func(*http.Request) bool { f(); return true }}, Dial: unreachable}
		}},
		"Hedge.Only": {roundTrip, func(f func()) Options {
			return Options{Hedge: Hedge{After: time.Second, Only: func(*http.Request) bool { f(); return true }},
				Dial: unreachable}
		}},
		"Adaptive.Priority": {roundTrip, func(f func()) Options {
			return Options{Adaptive: &Adaptive{Priority: func(*http.Request) int { f(); return 0 }}, Dial: unreachable}
		}},
		"Adaptive.Exempt": {roundTrip, func(f func()) Options {
			return Options{Adaptive: &Adaptive{Exempt: func(*http.Request) bool {
				f()
				return true
			}}, Dial: unreachable}
		}},
		"Options.Dial": {func(b *Balancer) {
			rt := b.RoundTripper(nil)
			rt.RoundTrip(httptest.NewRequest("GET", "http://site.example/", nil))
			rt.(*tripper).CloseIdleConnections()
		}, func(f func()) Options {
			return Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				f()
				return nil, errors.New("refused")
			}}
		}},
		"Picker.Pick": {pickAndFail, func(f func()) Options {
			return Options{Policy: misbehaving{f}, Adaptive: &Adaptive{}}
		}},
	} {
		t.Run(name, func(t *testing.T) { proof(t, c.trigger, c.make) })
	}
}

func roundTrip(b *Balancer) {
	b.RoundTripper(roundTripperFunc(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("refused")
	})).RoundTrip(httptest.NewRequest("GET", "http://site.example/", nil))
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// misbehaving is a policy whose pickers do as they like on the first pick of a goroutine of the trigger.
type misbehaving struct{ f func() }

func (m misbehaving) Picker(bs []*Backend) Picker { return &misbehavingPicker{m.f, bs, false} }

type misbehavingPicker struct {
	f    func()
	bs   []*Backend
	done bool
}

func (p *misbehavingPicker) Pick(Key) *Backend {
	if !p.done {
		p.done = true
		p.f()
	}
	return p.bs[0]
}

// A request without an answer is logged with its cause, counted, and not logged again within a minute.
func TestFailuresAreLogged(t *testing.T) {
	var out bytes.Buffer
	b := newBalancer(t, endpoints(1), Options{Dial: unreachable, Logger: slog.New(slog.NewTextHandler(&out, nil)),
		Outlier: Outlier{Disabled: true}})
	h := handlerOf(t, b)
	for range 3 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "http://site.example/cart", nil))
		require.Equal(t, http.StatusBadGateway, w.Code)
	}
	require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("\n")), out.String())
	for _, want := range []string{"level=WARN", "method=POST", "host=site.example", "path=/cart", "b00", "refused"} {
		require.Contains(t, out.String(), want)
	}
	st := b.Stats()
	require.EqualValues(t, 3, st.Failures)
	require.Contains(t, st.LastError, "refused")
	require.WithinDuration(t, time.Now(), st.LastErrorTime, time.Minute)
}
