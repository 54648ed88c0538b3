package token_test

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

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
