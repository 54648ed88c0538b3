// Command session shows two web servers that share their users' sessions: one of them dies, and nobody is logged out.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/redisstore"
	"github.com/tierkit/tierkit/session/token"
)

type visitor struct {
	Name string
	Cart []string
}

func main() {
	addr := flag.String("redis", "", "keep sessions in the Redis at this address (default: in memory)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"Runs two servers over one session store and takes one away.\n\nusage: session [-redis HOST:PORT]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, "session:", err)
		os.Exit(1)
	}
}

// server is one web server. Insecure allows http on this machine.
func server(name string, store session.Store) (*httptest.Server, *session.Sessions[visitor], error) {
	sessions, err := session.New[visitor](store, session.Options{Insecure: true})
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	check := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		check(w, sessions.From(r.Context()).Login(r.Context(), "ada", func(v *visitor) error {
			v.Name = "Ada"
			return nil
		}))
	})
	mux.HandleFunc("POST /cart", func(w http.ResponseWriter, r *http.Request) {
		check(w, sessions.From(r.Context()).Update(r.Context(), func(v *visitor) error {
			v.Cart = append(v.Cart, r.URL.Query().Get("add"))
			return nil
		}))
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		v, err := sessions.From(r.Context()).Get(r.Context())
		if err != nil {
			check(w, err)
			return
		}
		fmt.Fprintf(w, "server %s: hello %q, %d things in your cart", name, v.Name, len(v.Cart))
	})
	return httptest.NewServer(sessions.Middleware(mux)), sessions, nil
}

func run(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var store session.Store = session.NewMemory()
	if addr != "" {
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		s, err := redisstore.New(c, redisstore.Options{})
		if err != nil {
			return err
		}
		store = s
	}
	a, sessions, err := server("A", store)
	if err != nil {
		return err
	}
	b, _, err := server("B", store)
	if err != nil {
		return err
	}
	defer b.Close()

	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	browser := &http.Client{Jar: jar}
	do := func(method, url string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, nil)
		if err != nil {
			return "", err
		}
		res, err := browser.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != 200 {
			err = fmt.Errorf("%s %s: %s: %s", method, url, res.Status, body)
		}
		return string(body), err
	}
	if _, err := do("POST", a.URL+"/login"); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range 50 {
		wg.Go(func() {
			_, errs[i] = do("POST", []string{a.URL, b.URL}[i%2]+fmt.Sprint("/cart?add=thing", i))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, s := range []*httptest.Server{a, b} {
		page, err := do("GET", s.URL)
		if err != nil {
			return err
		}
		fmt.Println(page)
	}
	a.Close()
	page, err := do("GET", b.URL)
	if err != nil {
		return err
	}
	fmt.Println("server A is gone\n" + page)
	list, err := sessions.List(ctx, "ada")
	if err != nil {
		return err
	}
	for _, in := range list {
		fmt.Printf("ada is logged in from %s with %s, until %s\n", in.Address, in.Agent, in.Expires.Format("15:04"))
	}
	n, err := sessions.RevokeAll(ctx, "ada")
	if err != nil {
		return err
	}
	if page, err = do("GET", b.URL); err != nil {
		return err
	}
	fmt.Printf("revoked %d session\n%s\n", n, page)

	secret := make([]byte, 32)
	rand.Read(secret)
	authority, err := token.New([]token.Key{{ID: "2026-11", Secret: secret}},
		token.Options{Format: token.JWT, Issuer: "shop"})
	if err != nil {
		return err
	}
	refresher, err := token.NewRefresher(authority, token.SessionFamilies(store), token.RefreshOptions{Leeway: -1})
	if err != nil {
		return err
	}
	pair, err := refresher.Issue(ctx, token.Claims{Subject: "ada"})
	if err != nil {
		return err
	}
	claims, err := authority.Verify(pair.Access)
	if err != nil {
		return err
	}
	fmt.Printf("mobile app: token of %d bytes for %s, checked without a store\n", len(pair.Access), claims.Subject)
	if _, err = refresher.Refresh(ctx, pair.Refresh); err != nil {
		return err
	}
	_, err = refresher.Refresh(ctx, pair.Refresh)
	fmt.Println("a stolen refresh token, used a second time:", err)
	if !errors.Is(err, token.ErrReused) {
		return errors.New("the reuse was not noticed")
	}
	return otherService(ctx, store)
}

// otherService verifies our tokens with public keys that it reads from us, until one is revoked.
func otherService(ctx context.Context, store session.Store) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	revocations, err := token.NewRevocations(ctx, store, token.RevocationOptions{})
	if err != nil {
		return err
	}
	defer revocations.Close()
	authority, err := token.New([]token.Key{{ID: "2026-11-ed", Alg: token.EdDSA, Private: private}},
		token.Options{Format: token.JWT, Issuer: "https://shop.example", Audience: "billing", Revocations: revocations})
	if err != nil {
		return err
	}
	keys := httptest.NewTLSServer(authority.JWKSHandler())
	defer keys.Close()
	billing, err := token.NewVerifier(keys.URL,
		token.VerifierOptions{Issuer: "https://shop.example", Audience: "billing", Client: keys.Client(),
			Revocations: revocations})
	if err != nil {
		return err
	}
	defer billing.Close()
	signed, err := authority.Sign(token.Claims{Subject: "ada"})
	if err != nil {
		return err
	}
	claims, err := billing.Verify(ctx, signed)
	if err != nil {
		return err
	}
	fmt.Printf("billing: token of %s, checked with the shop's public key\n", claims.Subject)
	if err := revocations.Revoke(ctx, claims); err != nil {
		return err
	}
	_, err = billing.Verify(ctx, signed)
	fmt.Println("the same token, revoked:", err)
	if !errors.Is(err, token.ErrRevoked) {
		return errors.New("the revocation was not noticed")
	}
	return nil
}
