// Package token makes and checks signed tokens: proof of identity that any server can check with a key and no store.
//
// Two formats: a compact one of our own, and JWT (RFC 7519) under the rules of RFC 8725. A key has one algorithm; the token's
// own claim about it is compared, never believed. Expiry is mandatory. A token can not be revoked before it expires, so access tokens
// are short-lived and a [Refresher] renews them.
package token

import (
	"context"
	"errors"
	"net/http"
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

// Authority signs with its first key and verifies with all. It is safe for concurrent use.
type Authority struct{}

// New returns an authority; at least one key is required.
func New(keys []Key, o Options) (*Authority, error) { return &Authority{}, nil }

// Rotate makes k the signing key; older keys go on verifying until Drop.
func (a *Authority) Rotate(k Key) error { return nil }

// Drop forgets a key: its tokens fail from now on.
func (a *Authority) Drop(id string) error { return nil }

// Sign returns a token for c.
func (a *Authority) Sign(c Claims) (string, error) { return "", nil }

// Verify checks a token and returns its claims.
func (a *Authority) Verify(token string) (Claims, error) { return Claims{}, nil }

// Middleware lets requests with a valid "Authorization: Bearer" token pass, with the claims in the context ([FromContext]); others get 401.
func (a *Authority) Middleware(next http.Handler) http.Handler { return next }

// FromContext returns the claims that Middleware verified.
func FromContext(ctx context.Context) (Claims, bool) { return Claims{}, false }

// Pair is what a client gets at login and at each refresh.
type Pair struct {
	Access         string
	Refresh        string
	AccessExpires  time.Time
	RefreshExpires time.Time
}

// RefreshOptions configure a [Refresher].
type RefreshOptions struct {
	// TTL of a family: how long after login the user must log in again. Default 30 days.
	TTL time.Duration
	// Leeway is how long after an exchange the same refresh token still gets an answer (the same successor), for parallel requests and lost responses.
	// Default 15 s; negative: none.
	Leeway time.Duration
	// Reused is told when a token is used again after that.
	Reused func(ctx context.Context, subject, family string)
}

// Family is what a [FamilyStore] keeps per login.
type Family struct {
	Subject string
	Version uint64 // compared by Update
	Current uint64 // number of the newest refresh token
	Rotated time.Time
	Expires time.Time
	Extra   map[string]string
}

// FamilyStore keeps refresh families where all servers see them. Missing or expired: ErrRevoked.
type FamilyStore interface {
	Create(ctx context.Context, id string, f Family) error
	Load(ctx context.Context, id string) (Family, error)
	// Update replaces the family if its version is f.Version and stores f.Version+1; false when it is another.
	Update(ctx context.Context, id string, f Family) (bool, error)
	Delete(ctx context.Context, id string) error
}

// Refresher issues pairs of a short access token and a rotating refresh token.
type Refresher struct{}

// NewRefresher returns a refresher that signs with a.
func NewRefresher(a *Authority, store FamilyStore, o RefreshOptions) (*Refresher, error) {
	return &Refresher{}, nil
}

// Issue starts a family at login.
func (r *Refresher) Issue(ctx context.Context, c Claims) (Pair, error) { return Pair{}, nil }

// Refresh exchanges a refresh token for a new pair. ErrReused when it was exchanged before the leeway: the family is revoked.
func (r *Refresher) Refresh(ctx context.Context, refresh string) (Pair, error) { return Pair{}, nil }

// Revoke ends the family of a refresh token: logout.
func (r *Refresher) Revoke(ctx context.Context, refresh string) error { return nil }

// MemoryFamilies is a FamilyStore in the process.
func MemoryFamilies() FamilyStore { return nil }
