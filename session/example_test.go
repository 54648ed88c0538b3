package session_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tierkit/tierkit/session"
)

type shopper struct{ Cart []string }

func Example() {
	sessions, err := session.New[shopper](session.NewMemory(), session.Options{})
	if err != nil {
		log.Fatal(err)
	}
	h := sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessions.From(r.Context())
		if err := s.Update(r.Context(), func(v *shopper) error {
			v.Cart = append(v.Cart, "tea")
			return nil
		}); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		v, _ := s.Get(r.Context())
		fmt.Fprintln(w, v.Cart)
	}))
	var cookie *http.Cookie
	for range 2 {
		r, w := httptest.NewRequest("GET", "https://shop.example/", nil), httptest.NewRecorder()
		if cookie != nil {
			r.AddCookie(cookie)
		}
		h.ServeHTTP(w, r)
		fmt.Print(w.Body)
		for _, c := range w.Result().Cookies() {
			cookie = c
		}
	}
	fmt.Println(cookie.Name, cookie.Secure, cookie.HttpOnly)
	// Output:
	// [tea]
	// [tea tea]
	// __Host-session true true
}

// A login gets a new id, and can be listed and revoked.
func ExampleSessions_RevokeAll() {
	sessions, _ := session.New[shopper](session.NewMemory(), session.Options{})
	h := sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = sessions.From(r.Context()).Login(r.Context(), "ada", nil)
	}))
	for _, agent := range []string{"phone", "laptop"} {
		r := httptest.NewRequest("POST", "/login", nil)
		r.Header.Set("User-Agent", agent)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	ctx := context.Background()
	list, _ := sessions.List(ctx, "ada")
	for _, s := range list {
		fmt.Println(s.Agent, s.Address)
	}
	n, err := sessions.RevokeAll(ctx, "ada")
	fmt.Println(n, err)
	// Output:
	// laptop 192.0.2.1
	// phone 192.0.2.1
	// 2 <nil>
}

// Records are encrypted at rest; a new key takes over while requests are served.
func ExampleSessions_SetEncryptionKeys() {
	old := session.EncryptionKey{ID: "2026-10", Secret: []byte("thirty-two random bytes, or more")}
	sessions, err := session.New[shopper](session.NewMemory(),
		session.Options{EncryptionKeys: []session.EncryptionKey{old}})
	if err != nil {
		log.Fatal(err)
	}
	next := session.EncryptionKey{ID: "2026-11", Secret: []byte("another thirty-two random bytes.")}
	fmt.Println(sessions.SetEncryptionKeys(next, old))
	fmt.Println(sessions.SetEncryptionKeys(session.EncryptionKey{ID: "short", Secret: []byte("secret")}))
	// Output:
	// <nil>
	// session: Options.EncryptionKeys: keyring: bad key: Secret of key "short" has 6 bytes, needs at least 32
}

// A form carries a token that only a page of this site can have.
func ExampleSessions_RequireCSRF() {
	sessions, _ := session.New[shopper](session.NewMemory(), session.Options{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /form", func(w http.ResponseWriter, r *http.Request) {
		token, err := sessions.From(r.Context()).CSRFToken(r.Context())
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, `<input type="hidden" name="%s" value="%s">`, session.CSRFField, token)
	})
	mux.Handle("POST /save", sessions.RequireCSRF(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "saved")
	})))
	h := sessions.Middleware(mux)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/form", nil))
	r := httptest.NewRequest("POST", "/save", nil)
	r.AddCookie(w.Result().Cookies()[0])
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code)
	// Output: 403
}

// While the store fails, readers go on with what this server knows.
func ExampleSession_Stale() {
	sessions, _ := session.New[shopper](session.NewMemory(), session.Options{OnFailure: session.Stale})
	h := sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stale, err := sessions.From(r.Context()).Stale(r.Context()); stale || err != nil {
			http.Error(w, "payments are closed for a moment", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "paid")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/pay", nil))
	fmt.Print(w.Body)
	// Output: paid
}

// A bank's session is shorter than others, a kiosk's has no idle timeout.
func ExampleSession_SetTimeouts() {
	sessions, _ := session.New[shopper](session.NewMemory(), session.Options{})
	h := sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessions.From(r.Context())
		if err := s.Login(r.Context(), "ada", nil); err != nil {
			return
		}
		fmt.Println(s.SetTimeouts(r.Context(), time.Hour, 5*time.Minute))
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/login", nil))
	// Output: <nil>
}
