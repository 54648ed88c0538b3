// Package token makes and checks signed tokens: proof of identity that any server can check with a key and no store.
//
// Two formats: a compact one of our own, and JWT (RFC 7519) under the rules of RFC 8725. A key has one algorithm; the
// token's own claim about it is compared, never believed. Expiry is mandatory. Access tokens are short-lived, and a
// [Refresher] renews them; what must end earlier stands in [Revocations].
package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
	// ErrCannotSign: the authority's first key only verifies.
	ErrCannotSign = errors.New("token: key cannot sign")
)

// Format is how a token is written.
type Format uint8

const (
	Compact Format = iota // ours: shorter and about 20x faster than JWT
	JWT                   // RFC 7519
)

// Claims are what a token says. Zero values are left out.
type Claims struct {
	ID        string // "jti" of a JWT
	Session   string // "sid": the login that the token comes from; a Refresher sets it
	Subject   string
	Issuer    string
	Audience  string
	IssuedAt  time.Time // second precision
	NotBefore time.Time
	Expires   time.Time // mandatory
	// Extra is application data, at most 64 entries.
	Extra map[string]string
}

// Kinds of security events. Package session reports through a function of the same form.
const (
	EventBadSignature = "bad-signature" // also an unknown key or algorithm
	EventRevokedToken = "revoked-token" // a revoked token was used
	EventRefreshReuse = "refresh-reuse" // a refresh token was used again: its thief, or its owner after its thief
)

// Options configure an [Authority].
type Options struct {
	Format Format
	// Issuer and Audience are written into every token and, when set, required of every token.
	Issuer, Audience string
	// Type is the "typ" of a JWT, such as "at+jwt", which then every token must have (RFC 8725 section 3.11): for
	// issuers that make tokens for several purposes. Default: "JWT" is written, and a token may have none, "JWT" or
	// "at+jwt".
	Type string
	// TTL of a token whose Claims.Expires is zero. Default 15 min.
	TTL time.Duration
	// Leeway allows for clocks that differ. Default 0.
	Leeway time.Duration
	// Revocations, when set, are asked by Verify, and Sign gives every token an ID.
	Revocations *Revocations
	// Event reports what security monitoring wants to count and alert on. kind is one of the Event constants.
	Event func(ctx context.Context, kind, subject string)
}

const (
	maxToken  = 8192 // bytes, before anything is parsed
	maxLeeway = 10 * time.Minute
)

// Authority signs with its first key and verifies with all. It is safe for concurrent use.
type Authority struct {
	o                Options
	issuer, audience string     // as a compact token has them
	mu               sync.Mutex // serializes changes of keys
	keys             atomic.Pointer[[]*key]
	stats            counters
}

type counters struct{ signed, expired, badSignature, malformed, revoked, other atomic.Int64 }

// New returns an authority; at least one key is required.
func New(keys []Key, o Options) (*Authority, error) {
	if len(keys) == 0 {
		return nil, errors.New("token: no keys")
	}
	a, err := newAuthority(o)
	if err != nil {
		return nil, err
	}
	return a, a.SetKeys(keys)
}

func newAuthority(o Options) (*Authority, error) {
	if o.Format > JWT {
		return nil, fmt.Errorf("token: Options.Format is %d, not a format", o.Format)
	}
	if o.Type != "" && o.Format != JWT {
		return nil, errors.New("token: Options.Type is for the format JWT")
	}
	if strings.Trim(strings.ToLower(o.Type), "abcdefghijklmnopqrstuvwxyz0123456789.+-_/") != "" {
		return nil, fmt.Errorf("token: Options.Type %q is not a media type", o.Type)
	}
	if o.TTL == 0 {
		o.TTL = 15 * time.Minute
	}
	if o.TTL < time.Second {
		return nil, fmt.Errorf("token: Options.TTL is %v, must be at least 1s", o.TTL)
	}
	if o.Leeway < 0 || o.Leeway > maxLeeway {
		return nil, fmt.Errorf("token: Options.Leeway is %v, must be 0 to 10m", o.Leeway)
	}
	a := &Authority{o: o, issuer: string(appendText(nil, o.Issuer)), audience: string(appendText(nil, o.Audience))}
	a.keys.Store(&[]*key{})
	return a, nil
}

func (a *Authority) typ() string {
	if a.o.Type != "" {
		return a.o.Type
	}
	return "JWT"
}

// SetKeys replaces all keys while requests are served; the first one signs. To rotate without a moment in which a
// server meets a key that it does not know: give all servers the new key in the second place, then in the first, and
// take the old one away when its last token has expired.
func (a *Authority) SetKeys(keys []Key) error {
	if len(keys) == 0 {
		return errors.New("token: no keys")
	}
	ks := make([]*key, 0, len(keys))
	for _, k := range keys {
		n, err := newKey(k, a.typ())
		if err != nil {
			return err
		}
		for _, old := range ks {
			if old.id == n.id {
				return fmt.Errorf("token: two keys have the ID %q", n.id)
			}
		}
		ks = append(ks, n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys.Store(&ks)
	return nil
}

// Rotate makes k the signing key; older keys go on verifying until Drop. It is for one server; for several see SetKeys.
func (a *Authority) Rotate(k Key) error {
	n, err := newKey(k, a.typ())
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
	if len(old) > 0 && old[0].id == id {
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

// Sign returns a token for c. IssuedAt is set to now when zero, Expires to IssuedAt plus Options.TTL, Issuer and
// Audience to those of Options, ID to a random one if there are Revocations.
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
	if c.ID == "" && a.o.Revocations != nil {
		c.ID = rand.Text()
	}
	if len(c.Extra) > maxExtra {
		return "", fmt.Errorf("token: Claims.Extra has %d entries, the limit is %d", len(c.Extra), maxExtra)
	}
	k := (*a.keys.Load())[0]
	var t string
	var err error
	if a.o.Format == JWT {
		t, err = signJWT(k, &c)
	} else {
		t, err = signCompact(k, domainAccess, &c)
	}
	if err != nil {
		return "", err
	}
	if len(t) > maxToken {
		return "", fmt.Errorf("token: %d bytes, the limit is %d", len(t), maxToken)
	}
	a.stats.signed.Add(1)
	return t, nil
}

// Verify checks a token in this authority's format and returns its claims. Errors: those of this package.
func (a *Authority) Verify(token string) (c Claims, err error) {
	if err = a.verify(token, &c); err == nil {
		return c, nil
	}
	return Claims{}, a.refused(context.Background(), &c, err)
}

func (a *Authority) verify(token string, c *Claims) (err error) {
	if len(token) > maxToken {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(token))
	}
	if a.o.Format == JWT {
		err = a.verifyJWT(token, c)
	} else {
		err = a.verifyCompact(domainAccess, token, c)
	}
	if err != nil {
		*c = Claims{}
		return err
	}
	if err = a.check(c, time.Now()); err == nil && a.o.Revocations != nil && a.o.Revocations.Revoked(c) {
		err = ErrRevoked
	}
	return err
}

// refused counts and reports; c is filled if the signature was good.
func (a *Authority) refused(ctx context.Context, c *Claims, err error) error {
	kind := ""
	switch {
	case errors.Is(err, ErrSignature), errors.Is(err, ErrUnknownKey):
		a.stats.badSignature.Add(1)
		kind = EventBadSignature
	case errors.Is(err, ErrRevoked):
		a.stats.revoked.Add(1)
		kind = EventRevokedToken
	case errors.Is(err, ErrExpired):
		a.stats.expired.Add(1)
	case errors.Is(err, ErrMalformed):
		a.stats.malformed.Add(1)
	default:
		a.stats.other.Add(1)
	}
	if kind != "" && a.o.Event != nil {
		a.o.Event(ctx, kind, c.Subject)
	}
	return err
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

// Stats are the counters of an [Authority].
type Stats struct {
	Signed       int64 `metric:"signed_total,counter,Tokens signed"`
	Expired      int64 `metric:"expired_total,counter,Tokens refused because they had expired"`
	BadSignature int64 `metric:"bad_signature_total,counter,Tokens refused for their signature, key or algorithm"`
	Malformed    int64 `metric:"malformed_total,counter,Tokens that do not parse"`
	Revoked      int64 `metric:"revoked_total,counter,Revoked tokens that were used"`
	Other        int64 `metric:"other_total,counter,Tokens refused for another reason: audience, issuer, not yet valid"`
}

// Stats is cheap and safe at any time. Good tokens are not counted: that would be a memory shared by all processors in
// every request.
func (a *Authority) Stats() Stats {
	s := &a.stats
	return Stats{s.signed.Load(), s.expired.Load(), s.badSignature.Load(), s.malformed.Load(), s.revoked.Load(),
		s.other.Load()}
}
