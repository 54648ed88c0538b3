// Package session measures tierkit's sessions and tokens beside scs and golang-jwt, and a bare handler and a bare HMAC
// as limits: go test -bench . -count 5 ./session
package session

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/gorilla/sessions"

	"github.com/tierkit/tierkit/session"
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

func ours(b *testing.B) http.Handler { return oursOn(b, session.NewMemory(), session.Options{}) }

func oursOn(b *testing.B, store session.Store, o session.Options) http.Handler {
	s, err := session.New[visitor](store, o)
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

func theirs(idle bool) http.Handler { return theirsOn(memstore.NewWithCleanupInterval(0), idle) }

func theirsOn(store scs.Store, idle bool) http.Handler {
	m := scs.New()
	m.Store = store
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
	b.Run("tierkit-encrypted", func(b *testing.B) {
		h := oursOn(b, session.NewMemory(), session.Options{
			EncryptionKeys: []session.EncryptionKey{{ID: "k", Secret: make([]byte, 32)}}})
		serve(b, h, "/", login(b, h))
	})
	b.Run("gorilla-cookie", func(b *testing.B) { h := gorilla(); serve(b, h, "/", login(b, h)) })
	b.Run("limit", func(b *testing.B) {
		serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "Ada") }), "/", nil)
	})
}

// BenchmarkWrite changes one value per request. All requests change the same session, which scs answers with lost
// updates.
func BenchmarkWrite(b *testing.B) {
	b.Run("tierkit", func(b *testing.B) { h := ours(b); serve(b, h, "/write", login(b, h)) })
	b.Run("scs-idle", func(b *testing.B) { h := theirs(true); serve(b, h, "/write", login(b, h)) })
}

// gorilla keeps the data in an encrypted cookie.
func gorilla() http.Handler {
	store := sessions.NewCookieStore(make([]byte, 32), make([]byte, 32))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// it caches in the request's context, which lives on here
		s, _ := store.Get(r.WithContext(context.Background()), "session")
		if r.URL.Path == "/login" {
			s.Values["name"], s.Values["count"], s.Values["theme"] = "Ada", 1, "dark"
			_ = s.Save(r, w)
			return
		}
		name, _ := s.Values["name"].(string)
		io.WriteString(w, name)
	})
}
