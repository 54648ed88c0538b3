// Package session measures tierkit's sessions and tokens beside scs and golang-jwt, and a bare handler and a bare HMAC as limits:
// go test -bench . -count 5 ./session
package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
)

type visitor struct {
	Name  string
	Count int
	Theme string
}

type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// login returns the cookie of a session.
func login(b *testing.B, h http.Handler) *http.Cookie {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/login", nil))
	if len(w.Result().Cookies()) != 1 {
		b.Fatal("no cookie")
	}
	return w.Result().Cookies()[0]
}

func serve(b *testing.B, h http.Handler, path string, c *http.Cookie) {
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := httptest.NewRequest("GET", path, nil)
		if c != nil {
			r.AddCookie(c)
		}
		w := &nullWriter{http.Header{}}
		for pb.Next() {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
	})
}

func ours(b *testing.B) http.Handler {
	s, err := session.New[visitor](session.NewMemory(), session.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := s.From(r.Context())
		switch r.URL.Path {
		case "/login":
			_ = v.Login(r.Context(), "ada", func(v *visitor) error { *v = visitor{"Ada", 1, "dark"}; return nil })
		case "/write":
			_ = v.Update(r.Context(), func(v *visitor) error { v.Count++; return nil })
		default:
			d, _ := v.Get(r.Context())
			io.WriteString(w, d.Name)
		}
	}))
}

func theirs(idle bool) http.Handler {
	m := scs.New()
	m.Store = memstore.NewWithCleanupInterval(0)
	if idle {
		m.IdleTimeout = 30 * time.Minute
	}
	return m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			m.Put(r.Context(), "name", "Ada")
			m.Put(r.Context(), "count", 1)
			m.Put(r.Context(), "theme", "dark")
		case "/write":
			m.Put(r.Context(), "count", m.GetInt(r.Context(), "count")+1)
		default:
			io.WriteString(w, m.GetString(r.Context(), "name"))
		}
	}))
}

// BenchmarkRead is a request that reads its session, which has an idle timeout, from memory.
func BenchmarkRead(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) { h := ours(b); serve(b, h, "/", login(b, h)) })
	b.Run("scs-idle", func(b *testing.B) { h := theirs(true); serve(b, h, "/", login(b, h)) })
	b.Run("scs-no-idle", func(b *testing.B) { h := theirs(false); serve(b, h, "/", login(b, h)) })
	b.Run("limit", func(b *testing.B) {
		serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "Ada") }), "/", nil)
	})
}

// BenchmarkWrite changes one value per request. All requests change the same session, which scs answers with lost updates.
func BenchmarkWrite(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) { h := ours(b); serve(b, h, "/write", login(b, h)) })
	b.Run("scs-idle", func(b *testing.B) { h := theirs(true); serve(b, h, "/write", login(b, h)) })
}

var secret = []byte(strings.Repeat("k", 32))

func authority(b testing.TB, f token.Format) *token.Authority {
	a, err := token.New([]token.Key{{ID: "k1", Secret: secret}}, token.Options{Format: f, TTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// cpu reports the processor time per operation beside the elapsed time, which other work on the machine stretches.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

// claims are those of a usual access token.
var claims = token.Claims{ID: "7f1c2a9be04d4c55", Subject: "user-48151623", Issuer: "shop.example", Audience: "api.shop.example"}

// BenchmarkVerify checks one token.
func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct {
		name string
		f    token.Format
	}{{"tierkit-compact", token.Compact}, {"tierkit-jwt", token.JWT}} {
		b.Run(c.name, func(b *testing.B) {
			a := authority(b, c.f)
			t, _ := a.Sign(claims)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if _, err := a.Verify(t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("golang-jwt", func(b *testing.B) {
		t, _ := authority(b, token.JWT).Sign(claims)
		p := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			var c jwt.RegisteredClaims
			if _, err := p.ParseWithClaims(t, &c, func(*jwt.Token) (any, error) { return secret, nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	// The HMAC of as many bytes as the compact token signs, from a pool of ready states, as requests that run at the same time need it.
	b.Run("limit", func(b *testing.B) {
		t, _ := authority(b, token.Compact).Sign(claims)
		pool := sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}
		in, out := []byte(t[:strings.LastIndexByte(t, '.')]), make([]byte, 0, 32)
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			m := pool.Get().(hash.Hash)
			m.Reset()
			m.Write(in)
			m.Sum(out)
			pool.Put(m)
		}
		b.ReportMetric(float64(len(in)), "signed-bytes")
	})
}

// Tokens go both ways between this package and golang-jwt.
func TestInterop(t *testing.T) {
	a := authority(t, token.JWT)
	s, err := a.Sign(token.Claims{Subject: "ada", Issuer: "shop", Audience: "web", ID: "1", Extra: map[string]string{"role": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	var c jwt.MapClaims
	if _, err := jwt.ParseWithClaims(s, &c, func(*jwt.Token) (any, error) { return secret, nil }, jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("web")); err != nil {
		t.Fatal(err)
	}
	if c["sub"] != "ada" || c["role"] != "x" {
		t.Fatal(c)
	}
	k := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: "bob", Audience: jwt.ClaimStrings{"web", "app"}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))})
	k.Header["kid"] = "k1"
	s, err = k.SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Verify(s)
	if err != nil || got.Subject != "bob" {
		t.Fatal(got, err)
	}
	s, _ = jwt.New(jwt.SigningMethodNone).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if _, err := a.Verify(s); err == nil {
		t.Fatal("none was accepted")
	}
}

// BenchmarkSweep is the longest that a request waits while half a million sessions expire.
func BenchmarkSweep(b *testing.B) {
	for range b.N {
		m := session.NewMemory()
		at := time.Now()
		var k session.Key
		for i := range 500_000 {
			s := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
			k = session.Key(s)
			_ = m.Create(context.Background(), k, session.Record{Created: at, Seen: at, Expires: at.Add(time.Minute), Data: make([]byte, 100)})
		}
		later := at.Add(time.Hour)
		var mu sync.Mutex
		var worst time.Duration
		var wg sync.WaitGroup
		for g := range 2 {
			wg.Go(func() {
				for i := range 150_000 {
					k := session.Key(sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(g), 1}))
					start := time.Now()
					_ = m.Create(context.Background(), k, session.Record{Created: later, Seen: later, Expires: later.Add(time.Minute), Data: make([]byte, 100)})
					took := time.Since(start)
					mu.Lock()
					worst = max(worst, took)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(worst.Microseconds()), "worst-us")
		b.ReportMetric(float64(m.Len()), "left")
	}
}
