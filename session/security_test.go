package session_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session"
)

func encryption(id string) session.EncryptionKey {
	return session.EncryptionKey{ID: id, Secret: bytes.Repeat([]byte(id), 32)[:32]}
}

// peek shows what a store was given.
type peek struct {
	session.Store
	mu      sync.Mutex
	data    map[session.Key][]byte
	replace map[session.Key][]byte
}

func (p *peek) see(k session.Key, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.data == nil {
		p.data = map[session.Key][]byte{}
	}
	p.data[k] = b
}

func (p *peek) Create(ctx context.Context, k session.Key, r session.Record) error {
	p.see(k, r.Data)
	return p.Store.Create(ctx, k, r)
}

func (p *peek) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	p.see(k, r.Data)
	return p.Store.Update(ctx, k, r, now)
}

func (p *peek) Rotate(ctx context.Context, k, next session.Key, r session.Record, now time.Time,
	grace time.Duration) error {
	p.see(next, r.Data)
	return p.Store.Rotate(ctx, k, next, r, now, grace)
}

func (p *peek) Load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	r, err := p.Store.Load(ctx, k, now)
	if b := p.replace[r.Key]; b != nil && err == nil {
		r.Data = b
	}
	return r, err
}

func (p *peek) only(t *testing.T) (session.Key, []byte) {
	require.Len(t, p.data, 1)
	for k, b := range p.data {
		return k, b
	}
	panic("unreachable")
}

func TestEncryptionAtRest(t *testing.T) {
	mem := session.NewMemory()
	store := &peek{Store: mem}
	s := sessions(t, store, session.Options{EncryptionKeys: []session.EncryptionKey{encryption("a")}})
	b := &browser{h: site(t, s)}
	b.do("/login")
	_, sealed := store.only(t)
	for _, secret := range []string{"Ada", "ada", "192.0.2.1"} {
		require.NotContains(t, string(sealed), secret)
	}
	require.Equal(t, "ada/Ada/0", b.do("/get").Body.String())
	updates := s.Stats().Updates
	h := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		require.NoError(t, v.Update(r.Context(), func(*visitor) error { return nil }))
	})
	(&browser{h: h, cookies: b.cookies}).do("/")
	require.Equal(t, updates, s.Stats().Updates, "a change of nothing is not written, though sealing is random")
	ls, err := sessions(t, mem, session.Options{EncryptionKeys: []session.EncryptionKey{encryption("a")}}).List(
		t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", ls[0].Address)

	// Rotation: the other servers know the new key before one uses it; the record is sealed anew when it is written.
	require.NoError(t, s.SetEncryptionKeys(encryption("b"), encryption("a")))
	require.Equal(t, "ada/Ada/0", b.do("/get").Body.String())
	b.do("/count")
	require.NoError(t, s.SetEncryptionKeys(encryption("b")))
	require.Equal(t, "ada/Ada/1", b.do("/get").Body.String())
	require.NoError(t, s.SetEncryptionKeys(encryption("c")))
	require.Equal(t, "//0", b.do("/get").Body.String(), "no key of it is left")
	require.Error(t, s.SetEncryptionKeys())
	require.Error(t, s.SetEncryptionKeys(session.EncryptionKey{ID: "short", Secret: []byte("x")}))
}

// Who can write to the store can neither move a sealed record to another session nor make one up.
func TestSealedRecordsAreBoundToTheirID(t *testing.T) {
	store := &peek{Store: session.NewMemory(), replace: map[session.Key][]byte{}}
	var events []string
	hooks := &session.Hooks{Event: func(_ context.Context, kind, _ string) { events = append(events, kind) }}
	s := sessions(t, store, session.Options{EncryptionKeys: []session.EncryptionKey{encryption("a")}, Hooks: hooks})
	victim, mallory := &browser{h: site(t, s)}, &browser{h: site(t, s)}
	victim.do("/count")
	_, stolen := store.only(t)
	store.data = nil
	mallory.do("/count")
	k, _ := store.only(t)
	store.replace[k] = stolen
	require.Equal(t, "//0", mallory.do("/get").Body.String())
	require.Contains(t, events, session.EventSwappedRecord)

	plain := &peek{Store: session.NewMemory()}
	p := &browser{h: site(t, sessions(t, plain, session.Options{}))}
	p.do("/count")
	strict := sessions(t, plain, session.Options{EncryptionKeys: []session.EncryptionKey{encryption("a")}})
	p.h = site(t, strict)
	require.Equal(t, "//0", p.do("/get").Body.String(), "a record that nobody sealed")
	p.h = site(t, sessions(t, plain, session.Options{EncryptionKeys: []session.EncryptionKey{encryption("a")},
		ReadPlain: true}))
	require.Equal(t, "//1", p.do("/get").Body.String(), "unless the time before there were keys is allowed for")
	p.do("/count")
	p.h = site(t, strict)
	require.Equal(t, "//2", p.do("/get").Body.String(), "it is sealed once it is written")
	p.h = site(t, sessions(t, plain, session.Options{}))
	require.Equal(t, "//0", p.do("/get").Body.String(), "sealed, and there are no keys")
}

// Regenerate, then Login within the grace: neither older id leads to the logged-in session, however the requests mix.
func TestGraceDoesNotSpanLogin(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	b := &browser{h: site(t, s)}
	b.do("/count")
	planted := b.cookies["__Host-session"]
	b.do("/regenerate")
	second := b.cookies["__Host-session"]
	late := &browser{h: b.h, cookies: map[string]string{"__Host-session": planted}}
	late.do("/login") // by the grace id: a request under way
	for _, old := range []string{planted, second} {
		attacker := &browser{h: b.h, cookies: map[string]string{"__Host-session": old}}
		require.Equal(t, "//0", attacker.do("/get").Body.String())
		attacker.do("/regenerate")
		require.Equal(t, "//0", attacker.do("/get").Body.String())
	}
	require.Equal(t, "ada/Ada/1", late.do("/get").Body.String())
	before := late.cookies["__Host-session"]
	late.do("/login") // privileges change
	require.Equal(t, "//0", (&browser{h: b.h, cookies: map[string]string{"__Host-session": before}}).do(
		"/get").Body.String())
	require.Equal(t, "ada/Ada/1", late.do("/get").Body.String())
}

// A request that still carries an id from before the login neither clears nor replaces the browser's new cookie.
func TestLateRequestLeavesTheNewCookieAlone(t *testing.T) {
	b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{}))}
	b.do("/count")
	old := &browser{h: b.h, cookies: map[string]string{"__Host-session": b.cookies["__Host-session"]}}
	b.do("/login")
	old.do("/get")
	require.Empty(t, old.last.Cookies())
}

// An id that the server did not make is never taken over.
func TestInventedIDIsNotAdopted(t *testing.T) {
	b := &browser{h: site(t, sessions(t, session.NewMemory(), session.Options{})),
		cookies: map[string]string{"__Host-session": strings.Repeat("A", 43)}}
	b.do("/count")
	require.NotEqual(t, strings.Repeat("A", 43), b.cookies["__Host-session"])
	require.Equal(t, "//1", b.do("/get").Body.String())
}

// Another user logs in on the same browser: nothing of the first one's is handed on.
func TestLoginAsSomebodyElse(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	b := &browser{h: site(t, s)}
	b.do("/count")
	b.do("/login")
	b.do("/flash")
	b.do("/remember")
	require.Equal(t, "ada/Ada/1", b.do("/get").Body.String(), "an anonymous cart comes along")
	b.do("/login")
	require.Equal(t, "ada/Ada/1", b.do("/get").Body.String(), "and the user's own data too")
	require.Zero(t, b.last.Header.Values("Set-Cookie"))
	bob := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		require.NoError(t, v.Login(r.Context(), "bob", nil))
		d, err := v.Get(r.Context())
		require.NoError(t, err)
		require.Equal(t, visitor{}, d)
		fs, err := v.Flashes(r.Context())
		require.NoError(t, err)
		require.Empty(t, fs)
	})
	(&browser{h: bob, cookies: b.cookies}).do("/")
	ls, err := s.List(t.Context(), "ada")
	require.NoError(t, err)
	require.Empty(t, ls)
}

func TestTimeoutsPerSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessions(t, session.NewMemory(), session.Options{})
		h := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			require.NoError(t, v.Login(r.Context(), "ada", nil))
			require.Error(t, v.SetTimeouts(r.Context(), 1, 0))
			require.Error(t, v.SetTimeouts(r.Context(), -1, 0))
			switch r.URL.Path {
			case "/bank":
				require.NoError(t, v.SetTimeouts(r.Context(), time.Hour, 5*time.Minute))
			case "/kiosk":
				require.NoError(t, v.SetTimeouts(r.Context(), 48*time.Hour, -1))
			}
		})
		bank, kiosk, usual := &browser{h: h}, &browser{h: h}, &browser{h: h}
		bank.do("/bank")
		kiosk.do("/kiosk")
		usual.do("/")
		for _, b := range []*browser{bank, kiosk, usual} {
			b.h = site(t, s)
		}
		time.Sleep(5 * time.Minute)
		require.Equal(t, "//0", bank.do("/get").Body.String())
		require.Equal(t, "ada//0", usual.do("/get").Body.String())
		time.Sleep(30 * time.Minute)
		require.Equal(t, "//0", usual.do("/get").Body.String())
		time.Sleep(47 * time.Hour)
		require.Equal(t, "ada//0", kiosk.do("/get").Body.String())
		time.Sleep(time.Hour)
		require.Equal(t, "//0", kiosk.do("/get").Body.String())
	})
}

// The idle timeout does not write on every read: the fault measured on the leading library, 100 writes in 100 reads.
func TestReadsDoNotWrite(t *testing.T) {
	store := &peek{Store: session.NewMemory()}
	b := &browser{h: site(t, sessions(t, store, session.Options{Idle: time.Hour}))}
	b.do("/count")
	store.data = nil
	for range 100 {
		b.do("/get")
	}
	require.Empty(t, store.data)
	require.Empty(t, b.last.Cookies())
}

func TestCrossOriginRequestsAreRefused(t *testing.T) {
	post := func(s *session.Sessions[visitor], header ...string) int {
		r := httptest.NewRequest("POST", "https://example.com/count", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		site(t, s).ServeHTTP(w, r)
		if w.Code == http.StatusForbidden {
			require.Empty(t, w.Result().Cookies())
		}
		return w.Code
	}
	events := 0
	s := sessions(t, session.NewMemory(), session.Options{
		Hooks: &session.Hooks{Event: func(_ context.Context, kind, _ string) {
			require.Equal(t, session.EventCrossOrigin, kind)
			events++
		}}})
	require.Equal(t, 200, post(s))
	require.Equal(t, 200, post(s, "Sec-Fetch-Site", "same-origin"))
	require.Equal(t, 200, post(s, "Origin", "https://example.com"))
	require.Equal(t, 403, post(s, "Sec-Fetch-Site", "cross-site"))
	require.Equal(t, 403, post(s, "Sec-Fetch-Site", "same-site"))
	require.Equal(t, 403, post(s, "Origin", "https://evil.example"))
	require.Equal(t, 3, events)
	require.EqualValues(t, 3, s.Stats().Refused)

	trusting := http.NewCrossOriginProtection()
	require.NoError(t, trusting.AddTrustedOrigin("https://app.example"))
	s = sessions(t, session.NewMemory(), session.Options{CrossOrigin: trusting})
	require.Equal(t, 200, post(s, "Sec-Fetch-Site", "cross-site", "Origin", "https://app.example"))
	require.Equal(t, 403, post(s, "Sec-Fetch-Site", "cross-site", "Origin", "https://other.example"))
	s = sessions(t, session.NewMemory(), session.Options{NoCrossOriginCheck: true})
	require.Equal(t, 200, post(s, "Sec-Fetch-Site", "cross-site"))
}

func TestFormTokens(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	token := ""
	inner := s.RequireCSRF(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := s.From(r.Context())
		var err error
		switch r.URL.Path {
		case "/form":
			token, err = v.CSRFToken(r.Context())
		case "/login":
			err = v.Login(r.Context(), "ada", nil)
		case "/regenerate":
			err = v.Regenerate(r.Context())
		}
		require.NoError(t, err)
	}))
	h := s.Middleware(inner)
	b := &browser{h: h}
	post := func(path, field, header string) int {
		r := httptest.NewRequest("POST", "https://example.com"+path,
			strings.NewReader(url.Values{session.CSRFField: {field}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if header != "" {
			r.Header.Set(session.CSRFHeader, header)
		}
		for n, v := range b.cookies {
			r.AddCookie(&http.Cookie{Name: n, Value: v})
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			b.cookies[c.Name] = c.Value
		}
		return w.Code
	}
	require.Equal(t, 403, post("/save", "", ""), "no session at all")
	b.do("/form")
	first := token
	require.Len(t, b.last.Cookies(), 1)
	b.do("/form")
	require.Empty(t, b.last.Cookies())
	require.NotEqual(t, first, token, "masked: nothing for a compressor to compare")
	for i := 0; i+8 <= len(first); i++ {
		require.NotContains(t, token, first[i:i+8])
	}
	for _, good := range []string{first, token} {
		require.Equal(t, 200, post("/save", good, ""))
		require.Equal(t, 200, post("/save", "", good))
	}
	require.Equal(t, 403, post("/save", "", ""))
	require.Equal(t, 403, post("/save", "x", ""))
	require.Equal(t, 403, post("/save", first[:len(first)-1], ""))
	require.Equal(t, 403, post("/save", strings.Repeat("A", 86), ""))
	require.Equal(t, 403, post("/save", token, strings.Repeat("A", 86)), "the header, when there is one")
	require.Equal(t, 200, post("/regenerate", token, ""))
	require.Equal(t, 200, post("/save", token, ""), "a form in another tab survives a new id")

	mallory := &browser{h: h}
	mallory.do("/form")
	require.Equal(t, 403, post("/save", token, ""), "another session's token")
	mine := first
	require.Equal(t, 200, post("/login", mine, ""))
	require.Equal(t, 403, post("/save", mine, ""), "not across a login")
	b.do("/form")
	require.Equal(t, 200, post("/save", token, ""))
	require.Positive(t, s.Stats().Refused)
}

func TestRevokeOthersAndLoginFailed(t *testing.T) {
	var events []string
	s := sessions(t, session.NewMemory(), session.Options{
		Hooks: &session.Hooks{Event: func(_ context.Context, kind, user string) {
			events = append(events, kind+" "+user)
		}}})
	a, b := &browser{h: site(t, s)}, &browser{h: site(t, s)}
	a.do("/login")
	b.do("/login")
	h := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		n, err := s.RevokeOthers(r.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		s.LoginFailed(r.Context(), "eve")
	})
	(&browser{h: h, cookies: a.cookies}).do("/")
	require.Equal(t, "ada/Ada/0", a.do("/get").Body.String())
	require.Equal(t, "//0", b.do("/get").Body.String())
	require.Equal(t, []string{"login ada", "login ada", "revoked ada", "login-failed eve", "unknown-session "}, events)
	require.EqualValues(t, 5, s.Stats().Events)
}

// A blob that is copied under another user's key is refused.
func TestSwappedRecordIsRefused(t *testing.T) {
	mem := session.NewMemory()
	swap := &swapping{Store: mem}
	b := &browser{h: site(t, sessions(t, swap, session.Options{}))}
	b.do("/login")
	victim := b.cookies
	mallory := &browser{h: b.h}
	mallory.do("/count")
	swap.from = swap.keys[0]
	require.Equal(t, "//0", mallory.do("/get").Body.String())
	swap.from = session.Key{}
	require.Equal(t, "ada/Ada/0", (&browser{h: b.h, cookies: victim}).do("/get").Body.String())
}

type swapping struct {
	session.Store
	keys []session.Key
	from session.Key
}

func (s *swapping) Create(ctx context.Context, k session.Key, r session.Record) error {
	s.keys = append(s.keys, k)
	return s.Store.Create(ctx, k, r)
}

func (s *swapping) Load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	r, err := s.Store.Load(ctx, k, now)
	if err == nil && s.from != (session.Key{}) {
		o, _ := s.Store.Load(ctx, s.from, now)
		r.Data, r.User = o.Data, o.User
	}
	return r, err
}
