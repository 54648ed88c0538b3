package session_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/sessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	s := session.NewMemory()
	sessiontest.Run(t, func(t *testing.T) session.Store { return s })
}

type visitor struct {
	Name string
	N    int
	Cart []string
}

func sessions(t testing.TB, store session.Store, o session.Options) *session.Sessions[visitor] {
	s, err := session.New[visitor](store, o)
	require.NoError(t, err)
	return s
}

// browser keeps cookies, in a bubble of synctest too.
type browser struct {
	h       http.Handler
	cookies map[string]string
	last    *http.Response
}

func (b *browser) do(path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "https://example.com"+path, nil)
	for n, v := range b.cookies {
		r.AddCookie(&http.Cookie{Name: n, Value: v})
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	b.last = w.Result()
	for _, c := range b.last.Cookies() {
		if b.cookies == nil {
			b.cookies = map[string]string{}
		}
		if b.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
	return w
}

func handler(s *session.Sessions[visitor], f func(w http.ResponseWriter, r *http.Request,
	v *session.Session[visitor])) http.Handler {
	return s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r, s.From(r.Context())) }))
}

func site(t testing.TB, s *session.Sessions[visitor]) http.Handler {
	return handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		ctx := r.Context()
		var err error
		switch r.URL.Path {
		case "/plain":
		case "/count":
			err = v.Update(ctx, func(v *visitor) error { v.N++; return nil })
		case "/login":
			err = v.Login(ctx, "ada", func(v *visitor) error { v.Name = "Ada"; return nil })
		case "/regenerate":
			err = v.Regenerate(ctx)
		case "/logout":
			err = v.Destroy(ctx)
		case "/flash":
			err = v.Flash(ctx, "saved")
		case "/flashes":
			var fs []string
			fs, err = v.Flashes(ctx)
			fmt.Fprint(w, fs)
		case "/remember":
			err = v.Remember(ctx, 240*time.Hour)
		case "/get":
			var d visitor
			d, err = v.Get(ctx)
			user, _ := v.User(ctx)
			fmt.Fprintf(w, "%s/%s/%d", user, d.Name, d.N)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
}

func TestCookieIsSafeByDefault(t *testing.T) {
	b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
	b.do("/plain")
	require.Empty(t, b.last.Cookies())
	require.Empty(t, b.last.Header["Vary"], "unused: no cost, cacheable")
	b.do("/get")
	require.Empty(t, b.last.Cookies(), "reading creates nothing")
	require.Equal(t, []string{"Cookie"}, b.last.Header["Vary"])
	b.do("/count")
	require.Len(t, b.last.Cookies(), 1)
	c := b.last.Cookies()[0]
	require.Equal(t, "__Host-session", c.Name)
	require.True(t, c.Secure && c.HttpOnly && c.SameSite == http.SameSiteLaxMode && c.Path == "/" && c.Domain == "" &&
		c.MaxAge == 0)
	require.Len(t, c.Value, 43)
	require.Equal(t, "private, no-store", b.last.Header.Get("Cache-Control"))
	b.do("/count")
	require.Empty(t, b.last.Cookies(), "set once")
	require.Equal(t, "//2", b.do("/get").Body.String())
}

func TestLoginChangesTheIdWithoutGrace(t *testing.T) {
	var events []string
	s := sessions(t, session.NewMemory(), session.Options{
		Hooks: &session.Hooks{Event: func(_ context.Context, kind, user string) {
			events = append(events, kind+" "+user)
		}}})
	b := &browser{h: site(t, s)}
	b.do("/count")
	planted := b.cookies["__Host-session"]
	b.do("/login")
	require.NotEqual(t, planted, b.cookies["__Host-session"])
	require.Equal(t, "ada/Ada/1", b.do("/get").Body.String())
	attacker := &browser{h: b.h, cookies: map[string]string{"__Host-session": planted}}
	require.Equal(t, "//0", attacker.do("/get").Body.String())
	b.do("/logout")
	require.Empty(t, b.cookies)
	require.Equal(t, "//0", b.do("/get").Body.String())
	require.Equal(t, []string{"login ada", "unknown-session ", "logout ada"}, events)
}

func TestRegenerateHasGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
		b.do("/count")
		old := &browser{h: b.h, cookies: map[string]string{"__Host-session": b.cookies["__Host-session"]}}
		b.do("/regenerate")
		require.Equal(t, "//1", old.do("/get").Body.String())
		old.do("/count") // writes through the old id reach the session
		require.Equal(t, "//2", b.do("/get").Body.String())
		time.Sleep(10 * time.Second)
		require.Equal(t, "//0", old.do("/get").Body.String())
		require.Equal(t, "//2", b.do("/get").Body.String())
	})
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &browser{h: site(t, sessions(t, session.NewMemory(),
			session.Options{Idle: 10 * time.Minute, Absolute: time.Hour}))}
		b.do("/count")
		for range 6 {
			time.Sleep(9 * time.Minute)
			require.Equal(t, "//1", b.do("/get").Body.String())
		}
		time.Sleep(6 * time.Minute)
		require.Equal(t, "//0", b.do("/get").Body.String(), "absolute")
		b.do("/count")
		time.Sleep(10 * time.Minute)
		require.Equal(t, "//0", b.do("/get").Body.String(), "idle")
	})
}

func TestRemember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
		b.do("/count")
		b.do("/remember")
		require.Equal(t, 864000, b.last.Cookies()[0].MaxAge)
		time.Sleep(9 * 24 * time.Hour)
		require.Equal(t, "//1", b.do("/get").Body.String())
		b.do("/regenerate")
		require.Equal(t, 86400, b.last.Cookies()[0].MaxAge)
		time.Sleep(24 * time.Hour)
		require.Equal(t, "//0", b.do("/get").Body.String())
	})
}

func TestFlash(t *testing.T) {
	b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
	require.Equal(t, "[]", b.do("/flashes").Body.String())
	b.do("/flash")
	b.do("/flash")
	require.Equal(t, "[saved saved]", b.do("/flashes").Body.String())
	require.Equal(t, "[]", b.do("/flashes").Body.String())
}

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
	b.do("/count")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c := &browser{h: b.h, cookies: map[string]string{"__Host-session": b.cookies["__Host-session"]}}
			if w := c.do("/count"); w.Code != 200 {
				t.Error(w.Body)
			}
		})
	}
	wg.Wait()
	require.Equal(t, "//51", b.do("/get").Body.String())
}

// A slow request that began before the logout does not bring the session back.
func TestLogoutIsFinal(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	inside, proceed := make(chan struct{}), make(chan struct{})
	slow := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		_, err := v.Get(r.Context())
		require.NoError(t, err)
		close(inside)
		<-proceed
		err = v.Update(r.Context(), func(v *visitor) error { v.N++; return nil })
		require.ErrorIs(t, err, session.ErrNotFound)
		require.ErrorIs(t, v.Flash(r.Context(), "x"), session.ErrNotFound)
		ok, err := v.Exists(r.Context())
		require.NoError(t, err)
		require.False(t, ok)
	})
	b := &browser{h: site(t, s)}
	b.do("/login")
	cookie := b.cookies["__Host-session"]
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&browser{h: slow, cookies: map[string]string{"__Host-session": cookie}}).do("/")
	}()
	<-inside
	b.do("/logout")
	close(proceed)
	<-done
	require.Equal(t, "//0", (&browser{h: b.h, cookies: map[string]string{"__Host-session": cookie}}).do(
		"/get").Body.String())
}

func TestListAndRevoke(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	h := site(t, s)
	one, two := &browser{h: h}, &browser{h: h}
	one.do("/login")
	two.do("/login")
	list := func() []session.Info {
		ls, err := s.List(t.Context(), "ada")
		require.NoError(t, err)
		return ls
	}
	ls := list()
	require.Len(t, ls, 2)
	require.Equal(t, "192.0.2.1", ls[0].Address)
	require.NotEmpty(t, ls[0].ID)
	require.NotContains(t, one.cookies["__Host-session"], ls[0].ID)
	require.NoError(t, s.Revoke(t.Context(), "ada", ls[0].ID))
	require.ErrorIs(t, s.Revoke(t.Context(), "ada", ls[0].ID), session.ErrNotFound)
	require.Len(t, list(), 1)
	n, err := s.RevokeAll(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "//0", one.do("/get").Body.String())
	require.Equal(t, "//0", two.do("/get").Body.String())
}

func TestUnusualCookiesAreNoSession(t *testing.T) {
	h := site(t, sessions(t, session.NewMemory(), session.Options{}))
	for _, v := range []string{"x", strings.Repeat("A", 43), strings.Repeat("A", 42) + "B", strings.Repeat("\x00", 43),
		strings.Repeat("A", 4000)} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/get", nil)
		r.Header.Set("Cookie", "__Host-session="+v)
		h.ServeHTTP(w, r)
		require.Equal(t, "//0", w.Body.String())
	}
}

func TestWithoutMiddleware(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	_, err := s.From(t.Context()).Get(t.Context())
	require.ErrorIs(t, err, session.ErrNoSession)
	require.ErrorIs(t, s.From(t.Context()).Update(t.Context(), nil), session.ErrNoSession)
}

func TestOptionsNameTheField(t *testing.T) {
	for field, o := range map[string]session.Options{
		"Cookie": {Cookie: "a b"}, "Insecure": {Cookie: "__Host-x", Insecure: true}, "Absolute": {Absolute: 1},
		"Idle":     {Idle: 1},
		"SameSite": {SameSite: http.SameSiteNoneMode, Insecure: true}, "OnFailure": {OnFailure: 7},
		"StoreTimeout": {StoreTimeout: -1},
	} {
		_, err := session.New[visitor](session.NewMemory(), o)
		require.ErrorContains(t, err, field)
	}
	_, err := session.New[visitor](nil, session.Options{})
	require.Error(t, err)
}

// Sessions survive fields that a new version of the program adds or removes.
func TestDataEvolves(t *testing.T) {
	type old struct{ Name, Gone string }
	store := session.NewMemory()
	so, err := session.New[old](store, session.Options{})
	require.NoError(t, err)
	b := &browser{h: so.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, so.From(r.Context()).Update(r.Context(), func(o *old) error {
			*o = old{"Ada", "x"}
			return nil
		}))
	}))}
	b.do("/")
	b.h = site(t, sessions(t, store, session.Options{}))
	require.Equal(t, "/Ada/0", b.do("/get").Body.String())
}

func TestMemorySweepsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := session.NewMemory()
		for range 5000 {
			at := time.Now()
			require.NoError(t, m.Create(t.Context(), sessiontest.Key(),
				session.Record{User: "u", Created: at, Seen: at, Expires: at.Add(time.Minute)}))
		}
		time.Sleep(time.Hour)
		for range 3000 {
			at := time.Now()
			require.NoError(t, m.Create(t.Context(), sessiontest.Key(),
				session.Record{Created: at, Seen: at, Expires: at.Add(time.Minute)}))
		}
		require.Less(t, m.Len(), 3500)
	})
}

// Two servers behind a balancer, one store: any of them answers.
func TestTwoServersOneStore(t *testing.T) {
	store := session.NewMemory()
	a := httptest.NewServer(site(t, sessions(t, store, session.Options{Insecure: true})))
	b := httptest.NewServer(site(t, sessions(t, store, session.Options{Insecure: true})))
	defer b.Close()
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	get := func(url string) string {
		res, err := c.Get(url)
		require.NoError(t, err)
		defer res.Body.Close()
		var sb strings.Builder
		_, _ = bufio.NewReader(res.Body).WriteTo(&sb)
		return sb.String()
	}
	get(a.URL + "/login")
	get(a.URL + "/count")
	a.Close()
	require.Equal(t, "ada/Ada/1", get(b.URL+"/get"))
}

func BenchmarkRead(b *testing.B) {
	s := sessions(b, session.NewMemory(), session.Options{})
	br := &browser{h: site(b, s)}
	br.do("/login")
	h := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		_, _ = v.Get(r.Context())
	})
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: br.cookies["__Host-session"]})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &discard{h: http.Header{}}
		for pb.Next() {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
	})
}

// A request that reads its session from memory: its context and session, the request with them, the record's data and
// what is decoded from it.
func TestReadAllocates(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	s := sessions(t, session.NewMemory(), session.Options{})
	br := &browser{h: site(t, s)}
	br.do("/login")
	h := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		_, _ = v.Get(r.Context())
	})
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: br.cookies["__Host-session"]})
	w := &discard{h: http.Header{}}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { clear(w.h); h.ServeHTTP(w, r) }), 5.0)
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
