// Package token makes and checks signed tokens: proof of identity that any server can check with a key and no store.
//
// Two formats: a compact one of our own, and JWT (RFC 7519) under the rules of RFC 8725. A key has one algorithm; the token's
// own claim about it is compared, never believed. Expiry is mandatory. A token can not be revoked before it expires, so access tokens
// are short-lived and a [Refresher] renews them.
package token

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Errors. All of them mean "not authenticated"; the difference is for logs, not for clients.
var (
	ErrMalformed  = errors.New("token: malformed")
	ErrSignature  = errors.New("token: bad signature")
	ErrUnknownKey = errors.New("token: unknown key or algorithm")
	ErrExpired    = errors.New("token: expired")
	ErrNotYet     = errors.New("token: not valid yet")
	ErrAudience   = errors.New("token: wrong audience or issuer")
	ErrRevoked    = errors.New("token: revoked")
	// ErrReused: a refresh token was presented after it had been exchanged. Its whole family is revoked.
	ErrReused = errors.New("token: refresh token reused")
)

// Format is how a token is written.
type Format uint8

const (
	Compact Format = iota // ours: shorter and about 20x faster than JWT
	JWT                   // RFC 7519, HS256
)

// Key signs or verifies. Secret has at least 32 bytes.
type Key struct {
	ID     string
	Secret []byte
}

// Claims are what a token says. The zero values of NotBefore, Audience, Issuer and ID are left out.
type Claims struct {
	ID        string
	Subject   string
	Issuer    string
	Audience  string
	IssuedAt  time.Time // second precision
	NotBefore time.Time
	Expires   time.Time // mandatory
	// Extra is application data.
	Extra map[string]string
}

// Options configure an [Authority].
type Options struct {
	Format Format
	// Issuer and Audience are written into every token and, when set, required of every token.
	Issuer, Audience string
	// TTL of a token whose Claims.Expires is zero. Default 15 min.
	TTL time.Duration
	// Leeway allows for clocks that differ. Default 0.
	Leeway time.Duration
}

const (
	minSecret = 32   // bytes, RFC 7518 section 3.2
	maxToken  = 8192 // bytes, before anything is parsed
)

// Authority signs with its first key and verifies with all. It is safe for concurrent use.
type Authority struct {
	o    Options
	mu   sync.Mutex // serialises Rotate and Drop
	keys atomic.Pointer[[]*key]
}

// key is an HMAC-SHA256 key with its hash states kept ready: half of the cost of a short HMAC is hashing the key.
type key struct {
	id     string
	header string // of a JWT, encoded
	states sync.Pool
}

func newKey(k Key) (*key, error) {
	if k.ID == "" || len(k.ID) > 64 || strings.Trim(k.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, fmt.Errorf("token: Key.ID %q must be 1 to 64 letters, digits, - or _", k.ID)
	}
	if len(k.Secret) < minSecret {
		return nil, fmt.Errorf("token: Key.Secret of %q has %d bytes, must have at least %d", k.ID, len(k.Secret), minSecret)
	}
	secret := append([]byte(nil), k.Secret...)
	header := b64.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT","kid":"` + k.ID + `"}`))
	return &key{id: k.ID, header: header, states: sync.Pool{New: func() any { return &mac{Hash: hmac.New(sha256.New, secret)} }}}, nil
}

type mac struct {
	hash.Hash
	sum [sha256.Size]byte
	in  []byte
}

// sign calls f with the HMAC of domain and s; it is only valid during the call.
func (k *key) sign(domain, s string, f func(sum []byte)) {
	m := k.states.Get().(*mac)
	m.Reset()
	m.in = append(append(m.in[:0], domain...), s...)
	m.Write(m.in)
	f(m.Sum(m.sum[:0]))
	k.states.Put(m)
}

func (k *key) valid(domain, s string, sum []byte) bool {
	m := k.states.Get().(*mac)
	m.Reset()
	m.in = append(append(m.in[:0], domain...), s...)
	m.Write(m.in)
	ok := subtle.ConstantTimeCompare(m.Sum(m.sum[:0]), sum) == 1
	k.states.Put(m)
	return ok
}

// New returns an authority; at least one key is required.
func New(keys []Key, o Options) (*Authority, error) {
	if len(keys) == 0 {
		return nil, errors.New("token: no keys")
	}
	if o.Format > JWT {
		return nil, fmt.Errorf("token: Options.Format is %d, not a format", o.Format)
	}
	if o.TTL == 0 {
		o.TTL = 15 * time.Minute
	}
	if o.TTL < time.Second {
		return nil, fmt.Errorf("token: Options.TTL is %v, must be at least 1s", o.TTL)
	}
	if o.Leeway < 0 || o.Leeway > 10*time.Minute {
		return nil, fmt.Errorf("token: Options.Leeway is %v, must be 0 to 10m", o.Leeway)
	}
	a := &Authority{o: o}
	ks := make([]*key, 0, len(keys))
	for _, k := range keys {
		n, err := newKey(k)
		if err != nil {
			return nil, err
		}
		for _, old := range ks {
			if old.id == n.id {
				return nil, fmt.Errorf("token: two keys have the ID %q", n.id)
			}
		}
		ks = append(ks, n)
	}
	a.keys.Store(&ks)
	return a, nil
}

// Rotate makes k the signing key; older keys go on verifying until Drop. Verifiers on other servers need the key first: add it to them with
// New, then rotate.
func (a *Authority) Rotate(k Key) error {
	n, err := newKey(k)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.find(k.ID) != nil {
		return fmt.Errorf("token: a key with the ID %q exists", k.ID)
	}
	ks := append([]*key{n}, *a.keys.Load()...)
	a.keys.Store(&ks)
	return nil
}

// Drop forgets a key: its tokens fail from now on. The signing key cannot be dropped.
func (a *Authority) Drop(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := *a.keys.Load()
	if old[0].id == id {
		return fmt.Errorf("token: %q is the signing key; rotate first", id)
	}
	ks := make([]*key, 0, len(old))
	for _, k := range old {
		if k.id != id {
			ks = append(ks, k)
		}
	}
	if len(ks) == len(old) {
		return fmt.Errorf("token: %q: %w", id, ErrUnknownKey)
	}
	a.keys.Store(&ks)
	return nil
}

func (a *Authority) find(id string) *key {
	for _, k := range *a.keys.Load() {
		if k.id == id {
			return k
		}
	}
	return nil
}

// Sign returns a token for c. IssuedAt is set to now when zero, Expires to IssuedAt plus Options.TTL, Issuer and Audience to those of Options.
func (a *Authority) Sign(c Claims) (string, error) {
	if c.IssuedAt.IsZero() {
		c.IssuedAt = time.Now()
	}
	if c.Expires.IsZero() {
		c.Expires = c.IssuedAt.Add(a.o.TTL)
	}
	if c.Issuer == "" {
		c.Issuer = a.o.Issuer
	}
	if c.Audience == "" {
		c.Audience = a.o.Audience
	}
	k := (*a.keys.Load())[0]
	var t string
	var err error
	if a.o.Format == JWT {
		t, err = signJWT(k, &c)
	} else {
		t = signCompact(k, domainAccess, &c)
	}
	if err == nil && len(t) > maxToken {
		err = fmt.Errorf("token: %d bytes, the limit is %d", len(t), maxToken)
	}
	return t, err
}

// Verify checks a token in this authority's format and returns its claims. Errors: those of this package.
func (a *Authority) Verify(token string) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(token))
	}
	var c Claims
	var err error
	if a.o.Format == JWT {
		c, err = a.verifyJWT(token)
	} else {
		c, err = a.verifyCompact(domainAccess, token)
	}
	if err != nil {
		return Claims{}, err
	}
	if err := a.check(&c, time.Now()); err != nil {
		return Claims{}, err
	}
	return c, nil
}

// check holds the claims against the clock and the options.
func (a *Authority) check(c *Claims, now time.Time) error {
	switch {
	case c.Expires.IsZero():
		return fmt.Errorf("%w: no expiry", ErrMalformed)
	case !now.Before(c.Expires.Add(a.o.Leeway)):
		return ErrExpired
	case !c.NotBefore.IsZero() && now.Before(c.NotBefore.Add(-a.o.Leeway)):
		return ErrNotYet
	case a.o.Issuer != "" && c.Issuer != a.o.Issuer, a.o.Audience != "" && c.Audience != a.o.Audience:
		return ErrAudience
	}
	return nil
}

type contextKey struct{}

// Middleware lets requests with a valid "Authorization: Bearer" token pass, with the claims in the context ([FromContext]); others get 401 with a
// WWW-Authenticate header (RFC 6750) that does not say why.
func (a *Authority) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header["Authorization"]
		if len(auth) == 1 && len(auth[0]) > 7 && strings.EqualFold(auth[0][:7], "Bearer ") {
			if c, err := a.Verify(strings.TrimSpace(auth[0][7:])); err == nil {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, c)))
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		} else {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	})
}

// FromContext returns the claims that Middleware verified.
func FromContext(ctx context.Context) (Claims, bool) {
	c, ok := ctx.Value(contextKey{}).(Claims)
	return c, ok
}
