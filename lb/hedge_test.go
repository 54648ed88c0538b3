package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stuck is a backend that answers only when it is released, and counts the requests that were cancelled.
type stuck struct {
	cancelled, served atomic.Int64
	release           chan struct{}
}

func (s *stuck) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.served.Add(1)
	io.Copy(io.Discard, r.Body)
	select {
	case <-r.Context().Done():
		s.cancelled.Add(1)
	case <-s.release:
		fmt.Fprint(w, "late")
	}
}

func newStuck(t *testing.T, id string) (Endpoint, *stuck) {
	s := &stuck{release: make(chan struct{})}
	e, _ := serve(t, id, s.ServeHTTP)
	return e, s
}

// clients of the two modes, alike.
func modes(t *testing.T, b *Balancer) map[string]func(*http.Request) (*http.Response, error) {
	url, client := front(t, b)
	rt := b.RoundTripper(nil)
	t.Cleanup(rt.(*tripper).CloseIdleConnections)
	return map[string]func(*http.Request) (*http.Response, error){
		"handler": func(r *http.Request) (*http.Response, error) {
			r.URL.Host = strings.TrimPrefix(url, "http://")
			return client.Do(r)
		},
		"roundtripper": rt.RoundTrip,
	}
}

func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 2*time.Millisecond, what)
}

func TestHedge(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"handler", "roundtripper"} {
		t.Run(mode, func(t *testing.T) {
			slow, s := newStuck(t, "a")
			fast, _ := serve(t, "b", func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("Trailer", "X-Sum")
				w.Header().Set("X-Only-Of", "b")
				fmt.Fprint(w, "fast", string(body))
				w.(http.Flusher).Flush()
				w.Header().Set("X-Sum", "42")
			})
			hedged := make(chan string, 10)
			b := newBalancer(t, []Endpoint{slow, fast},
				Options{Policy: first{}, Hedge: Hedge{After: 20 * time.Millisecond, Only: func(*http.Request) bool {
					return true
				}},
					Hooks: &Hooks{Hedge: func(from, to *Backend) { hedged <- from.ID() + ">" + to.ID() }}})
			do := modes(t, b)[mode]
			for i, method := range []string{"GET", "PUT"} {
				var body io.Reader
				if method == "PUT" {
					body = strings.NewReader("er")
				}
				r, err := http.NewRequest(method, "http://site.example/", body)
				require.NoError(t, err)
				res, err := do(r)
				require.NoError(t, err)
				got, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				res.Body.Close()
				require.Equal(t, []string{"fast", "faster"}[i], string(got))
				require.Equal(t, []string{"b"}, res.Header["X-Only-Of"])
				require.Equal(t, "42", res.Trailer.Get("X-Sum"))
				require.Equal(t, "a>b", <-hedged)
			}
			eventually(t, func() bool { return s.cancelled.Load() == 2 }, "the loser is cancelled at its backend")
			eventually(t, func() bool { return b.Stats().InFlight == 0 }, "both leases end")
			st := b.Stats()
			require.Equal(t, [3]uint64{2, 2, 0}, [3]uint64{st.Hedges, st.HedgesWon, st.Retries})
			require.Zero(t, st.Backends[0].Failures, "slow is not failed")
			require.GreaterOrEqual(t, st.Backends[0].Latency, 10*time.Millisecond,
				"but it counts as slow as it was seen to be")

			r, _ := http.NewRequest("POST", "http://site.example/", strings.NewReader("once"))
			done := make(chan string)
			go func() {
				res, err := do(r)
				if err != nil {
					done <- err.Error()
					return
				}
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				done <- string(got)
			}()
			eventually(t, func() bool { return s.served.Load() == 3 }, "the POST arrives")
			time.Sleep(60 * time.Millisecond) // three times the delay: it would be hedged by now
			close(s.release)
			require.Equal(t, "late", <-done)
			require.Equal(t, uint64(2), b.Stats().Hedges, "what is not idempotent goes to one backend")
		})
	}
}

// first picks the first backend, so that tests know who is asked.
type first struct{}

func (first) Picker(bs []*Backend) Picker { return only{bs[0]} }

type only struct{ b *Backend }

func (o only) Pick(Key) *Backend { return o.b }

func TestHedgeNotNeeded(t *testing.T) {
	fast, _ := serve(t, "a", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a") })
	other, _ := serve(t, "b", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "b") })
	b := newBalancer(t, []Endpoint{fast, other}, Options{Policy: first{}, Hedge: Hedge{After: time.Minute}})
	for mode, do := range modes(t, b) {
		r, _ := http.NewRequest("GET", "http://site.example/", nil)
		res, err := do(r)
		require.NoError(t, err, mode)
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		require.Equal(t, "a", string(got), mode)
	}
	require.Zero(t, b.Stats().Hedges)
}

// The first fails while the second is under way, or the second while the first is: the other one's answer counts. When
// both fail a third backend is asked, and neither of them again.
func TestHedgeAndFailure(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"handler", "roundtripper"} {
		for _, c := range []struct{ name, first, second, want string }{
			{"first fails", "fail", "slow", "slow"}, {"second fails", "slow", "fail", "slow"},
			{"both fail", "fail", "fail", "third"},
		} {
			t.Run(mode+"/"+c.name, func(t *testing.T) {
				var started atomic.Int32
				var asked [3]atomic.Int32
				both := make(chan struct{})
				backend := func(i int, id, how string) Endpoint {
					e, _ := serve(t, id, func(w http.ResponseWriter, r *http.Request) {
						asked[i].Add(1)
						if how == "third" {
							fmt.Fprint(w, how)
							return
						}
						if started.Add(1) == 2 {
							close(both)
						}
						<-both
						if how == "fail" {
							panic(http.ErrAbortHandler)
						}
						select {
						case <-r.Context().Done():
						case <-time.After(50 * time.Millisecond): // the other fails meanwhile
						}
						fmt.Fprint(w, how)
					})
					return e
				}
				es := []Endpoint{backend(0, "a", c.first), backend(1, "b", c.second)}
				b := newBalancer(t, es, Options{Policy: first{}, Hedge: Hedge{After: time.Millisecond}})
				if c.want == "third" {
					require.NoError(t, b.Update(append(es, backend(2, "c", "third"))))
					// the hedge takes any of the others; only when it took b do both fail
				}
				r, _ := http.NewRequest("GET", "http://site.example/", nil)
				res, err := modes(t, b)[mode](r)
				if c.want == "third" && asked[2].Load() > 0 && asked[1].Load() == 0 {
					close(both) // a hangs on
				}
				require.NoError(t, err)
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				require.Equal(t, c.want, string(got))
				eventually(t, func() bool { return b.Stats().InFlight == 0 }, "all leases end")
				for i := range asked {
					require.LessOrEqual(t, asked[i].Load(), int32(1))
				}
			})
		}
	}
}

// Answers that come at the same moment: each client gets one, whole, of one backend.
func TestHedgeRace(t *testing.T) {
	t.Parallel()
	var es []Endpoint
	for i := range 4 {
		name := strings.Repeat(string(rune('a'+i)), 50_000)
		e, _ := serve(t, name[:1], func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			w.Header().Set("X-Name", name[:1])
			if rand.IntN(2) == 0 {
				w.WriteHeader(http.StatusEarlyHints)
			}
			io.WriteString(w, name[:25_000])
			w.(http.Flusher).Flush()
			io.WriteString(w, name[25_000:])
		})
		es = append(es, e)
	}
	b := newBalancer(t, es, Options{Hedge: Hedge{After: time.Millisecond}, Retry: Retry{Budget: -1}})
	for mode, do := range modes(t, b) {
		t.Run(mode, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 40 {
						r, _ := http.NewRequest("GET", "http://site.example/", nil)
						res, err := do(r)
						if err != nil {
							t.Error(err)
							return
						}
						got, err := io.ReadAll(res.Body)
						res.Body.Close()
						name := res.Header["X-Name"]
						if err != nil || len(name) != 1 || string(got) != strings.Repeat(name[0], 50_000) {
							t.Errorf("%v: %d bytes of %v", err, len(got), name)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
	eventually(t, func() bool { return b.Stats().InFlight == 0 }, "all leases end")
	require.NotZero(t, b.Stats().HedgesWon)
}

func TestHedgeKeepsToTheBudget(t *testing.T) {
	slow, s := newStuck(t, "a")
	fast, _ := serve(t, "b", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "b") })
	b := newBalancer(t, []Endpoint{slow, fast}, Options{Policy: first{}, Hedge: Hedge{After: time.Millisecond}})
	b.budget.tokens.Store(1500) // one is left, after what the requests themselves earn
	url, client := front(t, b)
	res, err := client.Get(url)
	require.NoError(t, err)
	res.Body.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		_, err := client.Do(r)
		done <- err
	}()
	eventually(t, func() bool { return b.Stats().NoRetry == 1 }, "the second hedge is refused")
	cancel()
	require.Error(t, <-done)
	close(s.release)
	require.Equal(t, uint64(1), b.Stats().Hedges)
}

// A client that a cookie binds to a backend is served there, however slow.
func TestHedgeNotForBoundClients(t *testing.T) {
	fast, _ := serve(t, "b", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "b") })
	slow, _ := serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(50 * time.Millisecond)
		}
		fmt.Fprint(w, "a")
	})
	b := newBalancer(t, []Endpoint{slow, fast},
		Options{Policy: first{}, Hedge: Hedge{After: 5 * time.Millisecond, Only: func(r *http.Request) bool {
			return r.URL.Path == "/slow"
		}}})
	h := handlerOf(t, b, ProxyOptions{Sticky: &Sticky{Keys: []StickyKey{{ID: "k", Secret: make([]byte, 32)}}}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
	bound := httptest.NewRequest("GET", "http://site.example/slow", nil)
	for _, c := range w.Result().Cookies() {
		bound.AddCookie(c)
	}
	require.NotEmpty(t, bound.Cookies())
	w = httptest.NewRecorder()
	h.ServeHTTP(w, bound)
	require.Equal(t, "a", w.Body.String())
	require.Zero(t, b.Stats().Hedges)
}

// A panic of a hook on the second attempt's goroutine costs the request nothing.
func TestHedgePanic(t *testing.T) {
	slow, s := newStuck(t, "a")
	fast, _ := serve(t, "b", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "b") })
	b := newBalancer(t, []Endpoint{slow, fast}, Options{Policy: first{}, Hedge: Hedge{After: time.Millisecond},
		Logger: slog.New(slog.DiscardHandler), Hooks: &Hooks{Hedge: func(_, to *Backend) { panic("hook") }}})
	w := httptest.NewRecorder()
	handlerOf(t, b).ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
	require.Equal(t, "b", w.Body.String())
	close(s.release)
	require.EqualValues(t, 1, b.Stats().CallbackFailures)
	noneInFlight(t, b)
}

func TestHedgeWantsSafeMethods(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": false, "DELETE": false,
		"POST": false} {
		r := httptest.NewRequest(method, "/", nil)
		require.Equal(t, want, (&Hedge{}).wants(r), method)
		require.True(t, (&Hedge{Only: func(*http.Request) bool { return true }}).wants(r))
	}
}

func TestHedgeOptions(t *testing.T) {
	for _, h := range []Hedge{{After: -1}, {Quantile: 1}, {Quantile: -0.5}} {
		_, err := New(endpoints(2), Options{Hedge: h})
		require.ErrorContains(t, err, "Options.Hedge")
	}
}

func TestHedgeDelayFollowsTheQuantile(t *testing.T) {
	b := newBalancer(t, endpoints(3), Options{Hedge: Hedge{Quantile: 0.9}})
	_, ok := b.hedgeDelay()
	require.False(t, ok, "nothing is known yet")
	for i := range 1000 {
		l, err := b.Pick(t.Context(), Key{})
		require.NoError(t, err)
		r := Result{Latency: time.Duration(i%100+1) * time.Millisecond}
		if i%100 >= 90 {
			r = Result{Latency: 91 * time.Millisecond, outrun: true} // hedged: it took longer than that
		}
		if i%50 == 0 {
			r = Result{Latency: time.Microsecond, Err: errors.New("boom")} // says nothing
		}
		l.Done(r)
	}
	eventually(t, func() bool {
		d, ok := b.hedgeDelay()
		return ok && d > 83*time.Millisecond && d < 98*time.Millisecond
	}, "the tail that was cut off still counts")
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 10_000 {
		h.add(time.Duration(i+1) * 100 * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond,
		1: time.Second} {
		d, ok := quantile(q, 0, &h)
		require.True(t, ok)
		require.InEpsilon(t, float64(want), float64(d), 0.07, q)
	}
	h.clear()
	_, ok := quantile(0.5, 0, &h)
	require.False(t, ok)
	h.add(time.Hour)
	d, _ := quantile(0.5, 0, &h)
	require.InEpsilon(t, float64(time.Hour), float64(d), 0.07)
	h.add(1000 * time.Hour) // counts in the last bucket
}

// Backends behind an http.Transport are hedged alike.
func TestHedgeOverHTTP2(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fast ", r.Proto) }
	plain := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for scheme, addr := range map[string]string{"h2c": plain.Listener.Addr().String(),
		"https": secure.Listener.Addr().String(), "http": plain.Listener.Addr().String()} {
		slow, s := newStuck(t, "a")
		b := newBalancer(t, []Endpoint{slow, {ID: "b", Addr: addr, Scheme: scheme}},
			Options{Policy: first{}, Hedge: Hedge{After: 5 * time.Millisecond},
				TLS: secure.Client().Transport.(*http.Transport).TLSClientConfig})
		url, client := front(t, b)
		res, err := client.Get(url)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		proto := "HTTP/2.0"
		if scheme == "http" {
			proto = "HTTP/1.1"
		}
		require.Equal(t, "fast "+proto, string(body), scheme)
		eventually(t, func() bool { return s.cancelled.Load() == 1 }, "the loser is cancelled")
	}
}
