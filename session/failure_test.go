package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/probe"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/sessiontest"
)

// broken fails or hangs.
type broken struct {
	session.Store
	err  error
	hang bool
}

func (b *broken) Load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	if b.hang {
		<-ctx.Done()
		return session.Record{}, ctx.Err()
	}
	if b.err != nil {
		return session.Record{}, b.err
	}
	return b.Store.Load(ctx, k, now)
}

func (b *broken) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	if b.err != nil {
		return b.err
	}
	return b.Store.Update(ctx, k, r, now)
}

func TestFailingStoreGivesOneCleanStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broken{Store: session.NewMemory()}
		b := &browser{h: site(t, sessions(t, store, session.Options{}))}
		b.do("/login")
		store.err = errors.New("connection refused")
		w := b.do("/get")
		require.Equal(t, 200, w.Code) // the site wrote before it looked at the error; its own business
		w = b.do("/count")
		require.Equal(t, 503, w.Code)
		require.Contains(t, w.Body.String(), "unavailable")
		require.NotContains(t, w.Body.String(), "body")
		store.err, store.hang = nil, true
		start := time.Now()
		require.Equal(t, 503, b.do("/count").Code)
		require.Equal(t, 2*time.Second, time.Since(start), "a hung store is bounded")
		store.hang = false
		require.Equal(t, "ada/Ada/0", b.do("/get").Body.String(), "and nothing is lost")

		store.err = errors.New("down")
		a := &browser{h: site(t, sessions(t, store, session.Options{OnFailure: session.Anonymous})), cookies: b.cookies}
		require.Equal(t, "//0", a.do("/get").Body.String())
		require.Equal(t, 503, a.do("/count").Code)
	})
}

// While the store fails, a session that this server has seen lately is still read, never written, and no longer than
// allowed.
func TestStaleSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broken{Store: session.NewMemory()}
		o := session.Options{OnFailure: session.Stale, StaleFor: time.Minute}
		s, other := sessions(t, store, o), sessions(t, store, o)
		b := &browser{h: site(t, s)}
		b.do("/login")
		unknown := &browser{h: site(t, other)}
		unknown.do("/count")
		unknown.h = b.h
		time.Sleep(30 * time.Second)
		b.do("/get")
		store.err = errors.New("down")
		time.Sleep(59 * time.Second)
		require.Equal(t, "ada/Ada/0", b.do("/get").Body.String())
		require.Equal(t, 503, b.do("/count").Code)
		require.Equal(t, "ada/Ada/0", b.do("/get").Body.String())
		require.EqualValues(t, 3, s.Stats().Stale)
		stale := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			is, err := v.Stale(r.Context())
			fmt.Fprint(w, is, err)
		})
		require.Equal(t, "true <nil>", (&browser{h: stale, cookies: b.cookies}).do("/").Body.String())
		failing := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			_, err := v.Get(r.Context())
			require.ErrorIs(t, err, session.ErrUnavailable)
		})
		(&browser{h: failing, cookies: unknown.cookies}).do("/")
		time.Sleep(time.Second)
		(&browser{h: failing, cookies: b.cookies}).do("/")
		store.err = nil
		time.Sleep(time.Second) // the guard tries again
		require.Equal(t, "ada/Ada/0", b.do("/get").Body.String())
		require.Equal(t, "false <nil>", (&browser{h: stale, cookies: b.cookies}).do("/").Body.String())
		b.do("/count")
		old := &browser{h: b.h, cookies: map[string]string{"__Host-session": b.cookies["__Host-session"]}}
		b.do("/logout")
		store.err = errors.New("down")
		(&browser{h: failing, cookies: old.cookies}).do("/")
	})
}

// Neither a revocation through this server nor an end by its timeouts is forgotten because the store fails.
func TestStaleKnowsWhatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &indexed{broken{Store: session.NewMemory()}}
		s := sessions(t, store, session.Options{OnFailure: session.Stale, StaleFor: time.Hour, Idle: 10 * time.Minute})
		a, b := &browser{h: site(t, s)}, &browser{h: site(t, s)}
		a.do("/login")
		b.do("/count")
		n, err := s.RevokeAll(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		store.err = errors.New("down")
		failing := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			_, err := v.Get(r.Context())
			require.ErrorIs(t, err, session.ErrUnavailable)
		})
		(&browser{h: failing, cookies: a.cookies}).do("/")
		require.Equal(t, "//1", b.do("/get").Body.String())
		time.Sleep(10 * time.Minute)
		(&browser{h: failing, cookies: b.cookies}).do("/")
	})
}

// indexed is broken, with the user index of memory.
type indexed struct{ broken }

func (i *indexed) ListUser(ctx context.Context, user string, now time.Time) ([]session.Listed, error) {
	return i.Store.(session.UserIndex).ListUser(ctx, user, now)
}

func (i *indexed) DeleteUser(ctx context.Context, user string, keep session.Key) (int, error) {
	return i.Store.(session.UserIndex).DeleteUser(ctx, user, keep)
}

// late lets something happen between the store's answer and its arrival.
type late struct {
	indexed
	then func()
}

func (l *late) Load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	r, err := l.indexed.Load(ctx, k, now)
	if then := l.then; then != nil {
		l.then = nil
		then()
	}
	return r, err
}

func (l *late) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	err := l.indexed.Update(ctx, k, r, now)
	if then := l.then; then != nil {
		l.then = nil
		then()
	}
	return err
}

// What was on its way from the store when this server ended the session is not what it remembers of it.
func TestStaleIsNotRememberedLate(t *testing.T) {
	for _, path := range []string{"/get", "/count"} {
		store := &late{indexed: indexed{broken{Store: session.NewMemory()}}}
		s := sessions(t, store, session.Options{OnFailure: session.Stale})
		a := &browser{h: site(t, s)}
		a.do("/login")
		a.do("/get")
		store.then = func() {
			n, err := s.RevokeAll(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		if path == "/count" { // the store's second answer
			revoke := store.then
			store.then = func() { store.then = revoke }
		}
		a.do(path)
		require.Nil(t, store.then)
		store.err = errors.New("down")
		(&browser{h: handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			_, err := v.Get(r.Context())
			require.ErrorIs(t, err, session.ErrUnavailable)
		}), cookies: a.cookies}).do("/")
	}
}

// A session that gets a new id while all of its user's are ended does not survive under it.
func TestRevokeAllWhileRotated(t *testing.T) {
	m := session.NewMemory()
	for range 20000 {
		at := time.Now()
		k, next := sessiontest.Key(), sessiontest.Key()
		r := session.Record{Version: 1, User: "ada", Created: at, Seen: at, Expires: at.Add(time.Hour)}
		require.NoError(t, m.Create(t.Context(), k, r))
		begin := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			<-begin
			_ = m.Rotate(t.Context(), k, next, r, at, 0)
		})
		wg.Go(func() {
			<-begin
			for n := 1; n > 0; {
				n, _ = m.DeleteUser(t.Context(), "ada", session.Key{})
			}
		})
		close(begin)
		wg.Wait()
		_, err := m.Load(t.Context(), next, at)
		require.ErrorIs(t, err, session.ErrNotFound)
	}
	require.Zero(t, m.Len())
}

// What a server remembers is bounded.
func TestStaleIsBounded(t *testing.T) {
	store := &broken{Store: session.NewMemory()}
	s := sessions(t, store, session.Options{OnFailure: session.Stale, StaleEntries: 100})
	var cookies []map[string]string
	for range 2000 {
		b := &browser{h: site(t, s)}
		b.do("/count")
		cookies = append(cookies, b.cookies)
	}
	store.err = errors.New("down")
	alive := 0
	get := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		if ok, err := v.Exists(r.Context()); ok && err == nil {
			alive++
		}
	})
	for _, c := range cookies {
		(&browser{h: get, cookies: c}).do("/")
	}
	require.LessOrEqual(t, alive, 250)
	require.GreaterOrEqual(t, alive, 50)
}

// A store that hangs holds a few requests for StoreTimeout each, and the others not at all.
func TestHungStoreDoesNotPileUpRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broken{Store: session.NewMemory(), hang: true}
		s := sessions(t, store, session.Options{StoreTimeout: time.Second})
		h := site(t, s)
		cookie := map[string]string{"__Host-session": strings.Repeat("A", 43)}
		for range 5 {
			(&browser{h: h, cookies: cookie}).do("/get")
		}
		var slow atomic.Int32
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				start := time.Now()
				w := (&browser{h: h, cookies: cookie}).do("/count")
				if w.Code != 503 {
					t.Error(w.Code)
				}
				if time.Since(start) > 0 {
					slow.Add(1)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, int(slow.Load()), 101, "one try per 100 ms")
		store.hang = false
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, 200, (&browser{h: h, cookies: cookie}).do("/count").Code)
		require.Equal(t, 200, (&browser{h: h, cookies: cookie}).do("/count").Code)
	})
}

// A browser that gives up says nothing about the store.
func TestImpatientClientsDoNotTripTheGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broken{Store: session.NewMemory(), hang: true}
		h := site(t, sessions(t, store, session.Options{}))
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			r := httptest.NewRequestWithContext(ctx, "GET", "https://example.com/get", nil)
			r.AddCookie(&http.Cookie{Name: "__Host-session", Value: strings.Repeat("A", 43)})
			h.ServeHTTP(httptest.NewRecorder(), r)
			cancel()
		}
		store.hang = false
		require.Equal(t, 200, (&browser{h: h,
			cookies: map[string]string{"__Host-session": strings.Repeat("A", 43)}}).do("/count").Code)
	})
}

// Two servers behind a balancer, one of which is lost at random moments and comes back: no session is lost, and no
// update that was acknowledged.
func TestNoSessionIsLostBehindABalancer(t *testing.T) {
	store := session.NewMemory()
	start := func(addr string) *httptest.Server {
		s := httptest.NewUnstartedServer(site(t, sessions(t, store, session.Options{Insecure: true})))
		s.Listener.Close()
		if addr == "" {
			s.Listener = testserver.Listen()
		} else {
			var err error
			s.Listener, err = listenAgain(addr)
			require.NoError(t, err)
		}
		s.Start()
		return s
	}
	servers := []*httptest.Server{start(""), start("")}
	defer func() {
		for _, s := range servers {
			s.Close()
		}
	}()
	var endpoints []lb.Endpoint
	for _, s := range servers {
		endpoints = append(endpoints, lb.Endpoint{Addr: s.Listener.Addr().String()})
	}
	balancer, err := lb.New(endpoints, lb.Options{
		Health: lb.Health{Probe: probe.HTTP("/plain"), Interval: 50 * time.Millisecond}})
	require.NoError(t, err)
	defer balancer.Close()
	handler, err := balancer.Handler(lb.ProxyOptions{})
	require.NoError(t, err)
	front := httptest.NewServer(handler)
	defer front.Close()

	const users, rounds = 8, 4
	stop := make(chan struct{})
	acked, unknown := make([]int, users), make([]int, users)
	var total atomic.Int64
	jars := make([]*http.Client, users)
	var wg sync.WaitGroup
	for u := range users {
		jar, _ := cookiejar.New(nil)
		jars[u] = &http.Client{Jar: jar, Transport: &http.Transport{}}
		defer jars[u].CloseIdleConnections()
		require.Eventually(t, func() bool {
			return fetch(jars[u], front.URL+"/login") == ""
		}, 30*time.Second, 10*time.Millisecond)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if send(jars[u], "POST", front.URL+"/count") == "" { // a GET the balancer may send twice
					acked[u]++
					total.Add(1)
				} else {
					unknown[u]++ // it may have happened
				}
			}
		})
	}
	for round := range rounds {
		lost := (round*7 + 3) % 5 % 2
		addr := servers[lost].Listener.Addr().String()
		before := total.Load()
		require.Eventually(t, func() bool {
			return total.Load() > before+users
		}, 30*time.Second, time.Millisecond, "traffic before the next loss")
		servers[lost].CloseClientConnections()
		servers[lost].Close()
		require.Eventually(t, func() bool {
			return fetch(jars[0], front.URL+"/plain") == ""
		}, 30*time.Second, 5*time.Millisecond)
		servers[lost] = start(addr)
	}
	close(stop)
	wg.Wait()
	for u := range users {
		var got string
		require.Eventually(t, func() bool {
			got = fetch(jars[u], front.URL+"/get")
			return !strings.Contains(got, "unavail")
		}, 30*time.Second, 10*time.Millisecond)
		n := -1
		_, err := fmt.Sscanf(got, "ada/Ada/%d", &n)
		require.NoError(t, err, got)
		require.GreaterOrEqual(t, n, acked[u])
		require.LessOrEqual(t, n, acked[u]+unknown[u])
		require.Positive(t, acked[u])
	}
}

// fetch returns the body, or what went wrong; "" is a plain success.
func fetch(c *http.Client, url string) string { return send(c, "GET", url) }

func send(c *http.Client, method, url string) string {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return "unavailable: " + err.Error()
	}
	res, err := c.Do(req)
	if err != nil {
		return "unavailable: " + err.Error()
	}
	defer res.Body.Close()
	var sb strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&sb); err != nil || res.StatusCode != 200 {
		return "unavailable: " + res.Status
	}
	return sb.String()
}
