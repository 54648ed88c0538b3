package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// jwk is a key of a JSON Web Key Set (RFC 7517, 7518 section 6, 8037 section 2).
type jwk struct {
	Kty string `json:"kty"`
	Kid string `json:"kid,omitempty"`
	Use string `json:"use,omitempty"`
	Alg string `json:"alg,omitempty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

// JWKS is the set of the authority's public keys, for others to verify its tokens with. HMAC keys are not in it.
func (a *Authority) JWKS() []byte {
	set := jwks{Keys: []jwk{}}
	for _, k := range *a.keys.Load() {
		j := jwk{Kid: k.id, Use: "sig", Alg: k.alg.String()}
		switch p := k.public.(type) {
		case ed25519.PublicKey:
			j.Kty, j.Crv, j.X = "OKP", "Ed25519", b64.EncodeToString(p)
		case *ecdsa.PublicKey:
			raw, err := p.Bytes() // 4, X, Y
			if err != nil {
				continue
			}
			j.Kty, j.Crv, j.X, j.Y = "EC", "P-256", b64.EncodeToString(raw[1:33]), b64.EncodeToString(raw[33:])
		case *rsa.PublicKey:
			j.Kty, j.N, j.E = "RSA", b64.EncodeToString(p.N.Bytes()), b64.EncodeToString(big.NewInt(int64(p.E)).Bytes())
		default:
			continue
		}
		set.Keys = append(set.Keys, j)
	}
	out, _ := json.Marshal(set) // strings only
	return out
}

// JWKSHandler serves JWKS, usually at /.well-known/jwks.json. Caches may keep it for five minutes: give verifiers a new
// key that long before it signs.
func (a *Authority) JWKSHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.JWKS()))
	})
}

const (
	maxKeys     = 100
	maxKeyBytes = 1 << 20
	maxKid      = 256
)

// parseJWKS takes the keys that we verify with and passes over all others: secret ones above all, for whoever publishes
// a secret has none.
func parseJWKS(b []byte) ([]*key, error) {
	var set jwks
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("token: key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("token: key set has %d keys, the limit is %d", len(set.Keys), maxKeys)
	}
	var ks []*key
	seen := map[string]bool{}
	for _, j := range set.Keys {
		k, ok := j.key()
		if !ok {
			continue
		}
		n, err := newKeyNamed(k, "JWT")
		if err != nil {
			continue
		}
		if seen[n.id] {
			return nil, fmt.Errorf("token: key set has two keys with the ID %q", n.id)
		}
		seen[n.id] = true
		n.header = "" // theirs look otherwise
		ks = append(ks, n)
	}
	if len(ks) == 0 {
		return nil, errors.New("token: key set has no key to verify with")
	}
	return ks, nil
}

func (j *jwk) key() (k Key, ok bool) {
	if j.Use != "" && j.Use != "sig" || len(j.Kid) > maxKid {
		return k, false
	}
	bytesOf := func(s string, n int) []byte {
		b, err := b64.DecodeString(strings.TrimRight(s, "="))
		if err != nil || n > 0 && len(b) != n {
			return nil
		}
		return b
	}
	k.ID = j.Kid
	switch {
	case j.Kty == "OKP" && j.Crv == "Ed25519" && (j.Alg == "" || j.Alg == "EdDSA" || j.Alg == "Ed25519"):
		k.Alg, k.Public = EdDSA, ed25519.PublicKey(bytesOf(j.X, ed25519.PublicKeySize))
	case j.Kty == "EC" && j.Crv == "P-256" && (j.Alg == "" || j.Alg == "ES256"):
		x, y := bytesOf(j.X, 32), bytesOf(j.Y, 32)
		p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return k, false
		}
		k.Alg, k.Public = ES256, p
	case j.Kty == "RSA" && (j.Alg == "" || j.Alg == "RS256"):
		n, e := bytesOf(j.N, 0), bytesOf(j.E, 0)
		if len(n) == 0 || len(e) == 0 || len(e) > 4 {
			return k, false
		}
		k.Alg, k.Public = RS256, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	default:
		return k, false
	}
	return k, true
}

// ErrKeysUnavailable: no key set has been read yet. It says nothing about the token.
var ErrKeysUnavailable = errors.New("token: keys unavailable")

// VerifierOptions configure a [Verifier].
type VerifierOptions struct {
	// Issuer and Audience are required of every token. Both must be set: a key set belongs to one issuer, who may make
	// tokens for others too.
	Issuer, Audience string
	// Type, Leeway, Revocations and Event are as in Options.
	Type        string
	Leeway      time.Duration
	Revocations *Revocations
	Event       func(ctx context.Context, kind, subject string)
	// Client fetches the keys. Default: one with a timeout of 5 s. Redirects are never followed.
	Client *http.Client
	// Refresh is how often the keys are read anew. Default 15 min.
	Refresh time.Duration
	// Again is the shortest time between two reads that tokens with an unknown key cause. Default 1 min.
	Again time.Duration
	// Error is told when the keys could not be read; the ones read last go on to count.
	Error func(error)
}

// Verifier checks JWTs of somebody else, whose public keys it reads from a fixed https URL (jku and x5u of a token are
// not looked at). It is safe for concurrent use.
type Verifier struct {
	a      *Authority
	url    string
	client http.Client
	o      VerifierOptions
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // serializes reads
	fetched time.Time  // the last try
	loaded  bool
}

// NewVerifier starts to read the keys; until the first read, Verify waits for it. Close ends the reading.
func NewVerifier(jwksURL string, o VerifierOptions) (*Verifier, error) {
	u, err := url.Parse(jwksURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("token: key set URL %q must be an https URL", jwksURL)
	}
	if o.Issuer == "" || o.Audience == "" {
		return nil, errors.New("token: VerifierOptions.Issuer and Audience must be set")
	}
	if o.Refresh == 0 {
		o.Refresh = 15 * time.Minute
	}
	if o.Refresh < time.Second {
		return nil, fmt.Errorf("token: VerifierOptions.Refresh is %v, must be at least 1s", o.Refresh)
	}
	if o.Again == 0 {
		o.Again = time.Minute
	}
	if o.Again < time.Second {
		return nil, fmt.Errorf("token: VerifierOptions.Again is %v, must be at least 1s", o.Again)
	}
	a, err := newAuthority(Options{Format: JWT, Issuer: o.Issuer, Audience: o.Audience, Type: o.Type, Leeway: o.Leeway,
		Revocations: o.Revocations, Event: o.Event})
	if err != nil {
		return nil, err
	}
	v := &Verifier{a: a, url: u.String(), o: o, done: make(chan struct{})}
	if o.Client != nil {
		v.client = *o.Client
	}
	if v.client.Timeout == 0 {
		v.client.Timeout = 5 * time.Second
	}
	v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	go v.refresh(ctx)
	return v, nil
}

// Close ends the reading of keys. Idempotent.
func (v *Verifier) Close() error {
	v.stop()
	<-v.done
	return nil
}

func (v *Verifier) refresh(ctx context.Context) {
	defer close(v.done)
	t := time.NewTicker(v.o.Refresh)
	defer t.Stop()
	for {
		v.mu.Lock()
		_ = v.fetch(ctx)
		v.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Verify checks a token and returns its claims. When its key is not known, the keys are read anew, at most once per
// VerifierOptions.Again whatever tokens come. Errors: those of this package; ErrKeysUnavailable.
func (v *Verifier) Verify(ctx context.Context, token string) (c Claims, err error) {
	if err = v.verify(ctx, token, &c); err != nil {
		return Claims{}, err
	}
	return c, nil
}

// Middleware is that of Authority.
func (v *Verifier) Middleware(next http.Handler) http.Handler { return bearer(next, v.verify) }

func (v *Verifier) verify(ctx context.Context, token string, c *Claims) error {
	err := v.a.verify(token, c)
	if errors.Is(err, ErrUnknownKey) {
		var ferr error
		if ferr = v.again(ctx); ferr == nil {
			err = v.a.verify(token, c)
		} else if errors.Is(ferr, ErrKeysUnavailable) {
			return ferr
		}
	}
	if err != nil {
		_ = v.a.refused(ctx, c, err)
	}
	return err
}

var errTooSoon = errors.New("token: keys were read a moment ago")

// again reads the keys for a token whose key is unknown. The caller's end does not end a read that others wait for.
func (v *Verifier) again(ctx context.Context) error {
	before := v.a.keys.Load()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.a.keys.Load() != before: // somebody else has read them meanwhile
		return nil
	case time.Since(v.fetched) < v.o.Again:
		if !v.loaded {
			return ErrKeysUnavailable
		}
		return errTooSoon
	}
	return v.fetch(context.WithoutCancel(ctx))
}

// fetch reads the keys; v.mu is held.
func (v *Verifier) fetch(ctx context.Context) (err error) {
	v.fetched = time.Now()
	defer func() {
		if err != nil {
			if v.o.Error != nil && ctx.Err() == nil {
				v.o.Error(err)
			}
			if !v.loaded {
				err = fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
			}
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, nil)
	if err != nil {
		return fmt.Errorf("token: key set: %w", err)
	}
	res, err := v.client.Do(req)
	if err != nil {
		return fmt.Errorf("token: key set: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("token: key set: %s", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxKeyBytes+1))
	if err != nil {
		return fmt.Errorf("token: key set: %w", err)
	}
	if len(body) > maxKeyBytes {
		return fmt.Errorf("token: key set has more than %d bytes", maxKeyBytes)
	}
	ks, err := parseJWKS(body)
	if err != nil {
		return err
	}
	v.a.keys.Store(&ks)
	v.loaded = true
	return nil
}
