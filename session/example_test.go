package session_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

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
		if err := s.Update(r.Context(), func(v *shopper) error { v.Cart = append(v.Cart, "tea"); return nil }); err != nil {
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
