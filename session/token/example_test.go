package token_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
)

// Any server that has the key checks a token without a store.
func Example() {
	keys := []token.Key{{ID: "2026-11", Secret: []byte(strings.Repeat("from your secrets", 2))}}
	a, err := token.New(keys, token.Options{Format: token.JWT, Issuer: "shop", Audience: "api", TTL: 10 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	t, err := a.Sign(token.Claims{Subject: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	c, err := a.Verify(t)
	fmt.Println(c.Subject, c.Issuer, err)
	_, err = a.Verify(t[:len(t)-1] + "?")
	fmt.Println(err)
	// Output:
	// ada shop <nil>
	// token: bad signature
}

// A short access token, and a refresh token that is exchanged at each use.
func ExampleRefresher() {
	ctx := context.Background()
	a, _ := token.New([]token.Key{{ID: "k", Secret: make([]byte, 32)}}, token.Options{})
	r, _ := token.NewRefresher(a, token.MemoryFamilies(), token.RefreshOptions{Leeway: -1})
	first, _ := r.Issue(ctx, token.Claims{Subject: "ada"})
	second, err := r.Refresh(ctx, first.Refresh)
	fmt.Println(err)
	_, err = r.Refresh(ctx, first.Refresh)
	fmt.Println(err)
	_, err = r.Refresh(ctx, second.Refresh)
	fmt.Println(err)
	// Output:
	// <nil>
	// token: refresh token reused
	// token: refresh: token: revoked
}

// A token is refused before it expires, on this server at once and on the others at their next poll.
func ExampleRevocations() {
	ctx := context.Background()
	rev, err := token.NewRevocations(ctx, session.NewMemory(), token.RevocationOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer rev.Close()
	a, _ := token.New([]token.Key{{ID: "k", Secret: make([]byte, 32)}}, token.Options{Revocations: rev})
	t, _ := a.Sign(token.Claims{Subject: "ada"})
	c, _ := a.Verify(t)
	fmt.Println(rev.Revoke(ctx, c))
	_, err = a.Verify(t)
	fmt.Println(err)
	// Output:
	// <nil>
	// token: revoked
}

// Others verify our tokens with our public keys, which they read from us.
func ExampleVerifier() {
	_, private, _ := ed25519.GenerateKey(nil)
	a, err := token.New([]token.Key{{ID: "2026-11", Alg: token.EdDSA, Private: private}},
		token.Options{Format: token.JWT, Issuer: "https://id.example", Audience: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewTLSServer(a.JWKSHandler())
	defer server.Close()
	v, err := token.NewVerifier(server.URL, token.VerifierOptions{Issuer: "https://id.example", Audience: "shop",
		Client: server.Client()})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close()
	t, _ := a.Sign(token.Claims{Subject: "ada"})
	c, err := v.Verify(context.Background(), t)
	fmt.Println(c.Subject, err)
	// Output: ada <nil>
}
