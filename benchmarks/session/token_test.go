package session

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"hash"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tierkit/tierkit/session/token"
)

var secret = []byte(strings.Repeat("k", 32))

func authority(b testing.TB, f token.Format) *token.Authority {
	a, err := token.New([]token.Key{{ID: "k1", Secret: secret}}, token.Options{Format: f, TTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// cpu reports the processor time per operation beside the elapsed time, which other work on the machine stretches.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

// claims are those of a usual access token.
var claims = token.Claims{ID: "7f1c2a9be04d4c55", Subject: "user-48151623", Issuer: "shop.example",
	Audience: "api.shop.example"}

// BenchmarkVerify checks one token.
func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct {
		name string
		f    token.Format
	}{{"tierkit-compact", token.Compact}, {"tierkit-jwt", token.JWT}} {
		b.Run(c.name, func(b *testing.B) {
			a := authority(b, c.f)
			t, _ := a.Sign(claims)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if _, err := a.Verify(t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("golang-jwt", func(b *testing.B) {
		t, _ := authority(b, token.JWT).Sign(claims)
		p := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			var c jwt.RegisteredClaims
			if _, err := p.ParseWithClaims(t, &c, func(*jwt.Token) (any, error) { return secret, nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	// The HMAC of as many bytes as the compact token signs, from a pool of ready states, as requests that run at the
	// same time need it.
	b.Run("limit", func(b *testing.B) {
		t, _ := authority(b, token.Compact).Sign(claims)
		pool := sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}
		in, out := []byte(t[:strings.LastIndexByte(t, '.')]), make([]byte, 0, 32)
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			m := pool.Get().(hash.Hash)
			m.Reset()
			m.Write(in)
			m.Sum(out)
			pool.Put(m)
		}
		b.ReportMetric(float64(len(in)), "signed-bytes")
	})
}

// Tokens of every algorithm go both ways between this package and golang-jwt.
func TestInterop(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, _ := rsa.GenerateKey(rand.Reader, 2048)
	long := []byte(strings.Repeat("k", 64))
	for _, c := range []struct {
		key             token.Key
		method          jwt.SigningMethod
		signs, verifies any // their keys
	}{
		{token.Key{Secret: secret}, jwt.SigningMethodHS256, secret, secret},
		{token.Key{Alg: token.HS384, Secret: long}, jwt.SigningMethodHS384, long, long},
		{token.Key{Alg: token.HS512, Secret: long}, jwt.SigningMethodHS512, long, long},
		{token.Key{Alg: token.EdDSA, Private: ed}, jwt.SigningMethodEdDSA, ed, ed.Public()},
		{token.Key{Alg: token.ES256, Private: ec}, jwt.SigningMethodES256, ec, ec.Public()},
		{token.Key{Alg: token.RS256, Public: rs.Public()}, jwt.SigningMethodRS256, rs, rs.Public()},
	} {
		t.Run(c.method.Alg(), func(t *testing.T) {
			c.key.ID = "k1"
			a, err := token.New([]token.Key{c.key}, token.Options{Format: token.JWT, Audience: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if c.key.Alg != token.RS256 {
				s, err := a.Sign(token.Claims{Subject: "ada ✓", Issuer: "shop", ID: "1", Session: "s",
					Extra: map[string]string{"role": "x"}})
				if err != nil {
					t.Fatal(err)
				}
				var m jwt.MapClaims
				_, err = jwt.ParseWithClaims(s, &m, func(*jwt.Token) (any, error) { return c.verifies, nil },
					jwt.WithValidMethods([]string{c.method.Alg()}), jwt.WithAudience("web"), jwt.WithIssuer("shop"),
					jwt.WithExpirationRequired(), jwt.WithIssuedAt())
				if err != nil || m["sub"] != "ada ✓" || m["role"] != "x" || m["jti"] != "1" || m["sid"] != "s" {
					t.Fatal(m, err)
				}
			}
			k := jwt.NewWithClaims(c.method, jwt.RegisteredClaims{Subject: "bob",
				Audience: jwt.ClaimStrings{"web", "app"}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))})
			k.Header["kid"] = "k1"
			s, err := k.SignedString(c.signs)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Verify(s)
			if err != nil || got.Subject != "bob" {
				t.Fatal(got, err)
			}
			for _, forged := range []struct {
				method jwt.SigningMethod
				key    any
			}{{jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType},
				{jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32))}, {jwt.SigningMethodPS256, rs}} {
				k := jwt.NewWithClaims(forged.method,
					jwt.RegisteredClaims{Audience: jwt.ClaimStrings{"web"},
						ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))})
				k.Header["kid"] = "k1"
				s, err := k.SignedString(forged.key)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := a.Verify(s); err == nil {
					t.Fatal("accepted", forged.method.Alg())
				}
			}
		})
	}
}
