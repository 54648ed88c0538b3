package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
)

func edKey(t testing.TB, id string) token.Key {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return token.Key{ID: id, Alg: token.EdDSA, Private: priv}
}

func ecKey(t testing.TB, id string) token.Key {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return token.Key{ID: id, Alg: token.ES256, Private: priv}
}

func allKeys(t testing.TB) []token.Key {
	return []token.Key{
		{ID: "h256", Secret: []byte(strings.Repeat("a", 32))},
		{ID: "h384", Alg: token.HS384, Secret: []byte(strings.Repeat("b", 48))},
		{ID: "h512", Alg: token.HS512, Secret: []byte(strings.Repeat("c", 64))}, edKey(t, "ed"), ecKey(t, "ec"),
	}
}

// Each algorithm signs and verifies in each format; a token of one is refused by every other key, even under that key's
// name.
func TestAlgorithms(t *testing.T) {
	keys := allKeys(t)
	for _, f := range formats {
		for i, k := range keys {
			a := authority(t, token.Options{Format: f}, k)
			s, err := a.Sign(token.Claims{Subject: "ada"})
			require.NoError(t, err)
			c, err := a.Verify(s)
			require.NoError(t, err, k.Alg)
			require.Equal(t, "ada", c.Subject)
			at := strings.LastIndexByte(s, '.')
			for _, sig := range []string{"", "AAAA", s[at+1:][:20], strings.Repeat("A", len(s)-at-1), s[at+1:] + "AA"} {
				_, err = a.Verify(s[:at+1] + sig)
				require.Error(t, err, k.Alg)
			}
			for j, other := range keys {
				if j == i {
					continue
				}
				_, err := authority(t, token.Options{Format: f}, other).Verify(s)
				require.ErrorIs(t, err, token.ErrUnknownKey)
				other.ID = k.ID
				_, err = authority(t, token.Options{Format: f}, other).Verify(s)
				require.Error(t, err, "%v with the name of %v", other.Alg, k.Alg)
			}
			if k.Private == nil {
				continue
			}
			public := token.Key{ID: k.ID, Alg: k.Alg, Public: k.Private.Public()}
			v := authority(t, token.Options{Format: f}, public)
			_, err = v.Verify(s)
			require.NoError(t, err)
			_, err = v.Sign(token.Claims{})
			require.ErrorIs(t, err, token.ErrCannotSign)
		}
	}
}

// RFC 8725 section 3.1: the algorithm is the key's. The classic attack: an HMAC under the public key, which everybody
// knows.
func TestPublicKeyIsNoSecret(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	a := authority(t, token.Options{Format: token.JWT}, token.Key{ID: "rsa", Alg: token.RS256, Public: &priv.PublicKey})
	exp := time.Now().Add(time.Hour).Unix()
	for _, secret := range [][]byte{der, text} {
		for _, alg := range []string{"HS256", "RS256", "none"} {
			in := b64(map[string]any{"alg": alg, "kid": "rsa"}) + "." + b64(map[string]any{"sub": "x", "exp": exp})
			m := hmac.New(sha256.New, secret)
			m.Write([]byte(in))
			_, err := a.Verify(in + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil)))
			require.Error(t, err)
		}
		_, err = token.New([]token.Key{{ID: "x", Secret: secret}}, token.Options{})
		require.ErrorContains(t, err, "key file")
	}
	in := b64(map[string]any{"alg": "RS256", "kid": "rsa"}) + "." + b64(map[string]any{"sub": "x", "exp": exp})
	sum := sha256.Sum256([]byte(in))
	sig, err := rsa.SignPKCS1v15(rand.Reader, priv, crypto.SHA256, sum[:])
	require.NoError(t, err)
	c, err := a.Verify(in + "." + base64.RawURLEncoding.EncodeToString(sig))
	require.NoError(t, err)
	require.Equal(t, "x", c.Subject)
}

// RFC 8725 sections 3.2, 3.4, 3.5: keys that are too weak, of the wrong kind, or not on the curve.
func TestWeakAndMixedKeysAreRefused(t *testing.T) {
	ed, ec := edKey(t, "k"), ecKey(t, "k")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil { // this build of Go does not even make one
		weak = &rsa.PrivateKey{}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	secret := []byte(strings.Repeat("s", 64))
	for name, k := range map[string]token.Key{
		"HS384 with 47":      {Alg: token.HS384, Secret: secret[:47]},
		"HS512 with 63":      {Alg: token.HS512, Secret: secret[:63]},
		"secret for EdDSA":   {Alg: token.EdDSA, Secret: secret},
		"EC key for EdDSA":   {Alg: token.EdDSA, Private: ec.Private},
		"Ed key for ES256":   {Alg: token.ES256, Private: ed.Private},
		"Ed key for HS256":   {Secret: secret, Private: ed.Private},
		"both halves":        {Alg: token.EdDSA, Private: ed.Private, Public: ed.Private.Public()},
		"none at all":        {Alg: token.ES256},
		"P-384":              {Alg: token.ES256, Private: p384},
		"short Ed key":       {Alg: token.EdDSA, Public: ed25519.PublicKey(secret[:31])},
		"weak RSA":           {Alg: token.RS256, Public: &weak.PublicKey},
		"signing with RS256": {Alg: token.RS256, Private: weak},
		"no such algorithm":  {Alg: 99, Secret: secret},
	} {
		k.ID = "k"
		_, err := token.New([]token.Key{k}, token.Options{})
		require.Error(t, err, name)
		require.ErrorContains(t, err, `"k"`, name)
	}
}

// signed is somebody else's JWT under key("k1").
func signed(header, payload string) string {
	in := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(payload))
	m := hmac.New(sha256.New, key("k1").Secret)
	m.Write([]byte(in))
	return in + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// What a header may say and what not, on tokens whose signature is good.
func TestHeaders(t *testing.T) {
	payload := fmt.Sprintf(`{"sub":"x","exp":%d}`, time.Now().Add(time.Hour).Unix())
	a := authority(t, token.Options{Format: token.JWT})
	for _, h := range []string{
		`{"alg":"HS256"}`, `{"alg":"HS256","kid":"k1","typ":"jwt"}`, `{"typ":"at+JWT","alg":"HS256"}`,
		`{"typ":"application/at+jwt","alg":"HS256"}`,
		// RFC 8725 section 3.10: nothing is fetched from, and no key taken from, what the token says
		`{"alg":"HS256","kid":"k1","jku":"https://evil.example/","x5u":"https://evil.example/","jwk":{"kty":"oct","k":"AAAA"},"x5c":["AAAA"]}`,
	} {
		_, err := a.Verify(signed(h, payload))
		require.NoError(t, err, h)
	}
	for _, h := range []string{
		``, `null`, `[]`, `{}`, `{"ALG":"HS256"}`, `{"alg":["HS256"]}`, `{"alg":"HS256","kid":5}`,
		`{"alg":"HS256","kid":""}`, `{"alg":"hs256"}`,
		`{"alg":"HS256","kid":"k2"}`, `{"alg":"HS256","crit":[]}`, `{"alg":"HS256","crit":["exp"],"exp":1}`,
		`{"alg":"HS256","crit":null}`,
		`{"alg":"HS256","b64":false,"crit":["b64"]}`, `{"alg":"HS256","typ":"secevent+jwt"}`,
		"{\"alg\":\"HS256\",\"kid\":\"k1\",\"x\":\"\xff\"}",
	} {
		_, err := a.Verify(signed(h, payload))
		require.Error(t, err, h)
	}
	two := authority(t, token.Options{Format: token.JWT}, key("k1"), key("k2"))
	_, err := two.Verify(signed(`{"alg":"HS256"}`, payload))
	require.ErrorIs(t, err, token.ErrUnknownKey, "which of two?")

	// RFC 8725 section 3.11: explicit typing
	typed := authority(t, token.Options{Format: token.JWT, Type: "at+jwt"})
	own, err := typed.Sign(token.Claims{})
	require.NoError(t, err)
	_, err = typed.Verify(own)
	require.NoError(t, err)
	_, err = typed.Verify(signed(`{"alg":"HS256","typ":"application/AT+jwt"}`, payload))
	require.NoError(t, err)
	for _, h := range []string{`{"alg":"HS256"}`, `{"alg":"HS256","typ":"JWT"}`} {
		_, err = typed.Verify(signed(h, payload))
		require.ErrorIs(t, err, token.ErrMalformed)
	}
	_, err = token.New([]token.Key{key("k1")}, token.Options{Type: "at+jwt"})
	require.ErrorContains(t, err, "Type")
}

// RFC 8725 section 3.7: text is UTF-8, on both sides.
func TestUTF8(t *testing.T) {
	a := authority(t, token.Options{Format: token.JWT})
	exp := time.Now().Add(time.Hour).Unix()
	_, err := a.Verify(signed(`{"alg":"HS256"}`, fmt.Sprintf("{\"sub\":\"a\xff\",\"exp\":%d}", exp)))
	require.ErrorIs(t, err, token.ErrMalformed)
	for _, c := range []token.Claims{{Subject: "a\xff"}, {Extra: map[string]string{"x": "\xff"}},
		{Extra: map[string]string{"\xff": ""}}} {
		_, err = a.Sign(c)
		require.ErrorContains(t, err, "UTF-8")
		_, err = authority(t, token.Options{}).Sign(c)
		require.NoError(t, err, "the compact format carries bytes")
	}
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = "x"
	}
	_, err = a.Sign(token.Claims{Extra: many})
	require.ErrorContains(t, err, "Extra")
	raw, _ := json.Marshal(many)
	_, err = a.Verify(signed(`{"alg":"HS256"}`, fmt.Sprintf(`{"exp":%d,`, exp)+string(raw[1:])))
	require.ErrorIs(t, err, token.ErrMalformed)
}

// Every string survives the compact format, and only in one spelling.
func TestCompactText(t *testing.T) {
	a := authority(t, token.Options{Issuer: "https://shop.example/a", Audience: "a b"})
	for _, s := range []string{"", "plain-_.", "a~b", "a+b", "ada@example.com", "ünï ✓", "\x00\xff", "~", "+", "+7e"} {
		want := token.Claims{ID: s, Session: s, Subject: s, IssuedAt: time.Unix(1, 0),
			Expires: time.Now().Add(time.Hour).Truncate(time.Second), Extra: map[string]string{"n" + s: s, "z": ""}}
		out, err := a.Sign(want)
		require.NoError(t, err)
		require.Regexp(t, `^[A-Za-z0-9._~+-]+$`, out)
		got, err := a.Verify(out)
		require.NoError(t, err)
		want.Issuer, want.Audience = "https://shop.example/a", "a b"
		require.Equal(t, want, got)
	}
}

func TestRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemory()
		type server struct {
			a   *token.Authority
			rev *token.Revocations
		}
		var events []string
		server2 := func(f token.Format) server {
			rev, err := token.NewRevocations(t.Context(), store, token.RevocationOptions{})
			require.NoError(t, err)
			return server{authority(t, token.Options{Format: f, Revocations: rev,
				Event: func(_ context.Context, kind, subject string) {
					events = append(events, kind+" "+subject)
				}}), rev}
		}
		for _, f := range formats {
			events = nil
			one, two := server2(f), server2(f)
			sign := func(c token.Claims) string {
				s, err := one.a.Sign(c)
				require.NoError(t, err)
				return s
			}
			bad, good, sid := sign(token.Claims{Subject: "ada"}), sign(token.Claims{Subject: "ada"}),
				sign(token.Claims{Subject: "ada", Session: "s1"})
			c, err := one.a.Verify(bad)
			require.NoError(t, err)
			require.NotEmpty(t, c.ID)
			require.NoError(t, one.rev.Revoke(t.Context(), c))
			require.NoError(t, one.rev.Revoke(t.Context(), c), "again")
			require.NoError(t, one.rev.RevokeSession(t.Context(), "s1", time.Now().Add(time.Hour)))
			for _, s := range []string{bad, sid} {
				_, err = one.a.Verify(s)
				require.ErrorIs(t, err, token.ErrRevoked, "here at once")
				_, err = two.a.Verify(s)
				require.NoError(t, err)
			}
			require.Equal(t, []string{"revoked-token ada", "revoked-token ada"}, events)
			time.Sleep(5*time.Second + time.Millisecond)
			for _, s := range []string{bad, sid} {
				_, err = two.a.Verify(s)
				require.ErrorIs(t, err, token.ErrRevoked, "there after a poll")
			}
			_, err = two.a.Verify(good)
			require.NoError(t, err)

			require.NoError(t, two.rev.RevokeSubject(t.Context(), "ada", time.Hour))
			_, err = two.a.Verify(good)
			require.ErrorIs(t, err, token.ErrRevoked)
			time.Sleep(time.Second)
			_, err = two.a.Verify(sign(token.Claims{Subject: "ada"}))
			require.NoError(t, err, "a new login")
			_, err = two.a.Verify(sign(token.Claims{Subject: "bob", IssuedAt: time.Now().Add(-time.Minute)}))
			require.NoError(t, err)
			require.Equal(t, 3, two.rev.Len())
			time.Sleep(2 * time.Hour)
			require.Zero(t, two.rev.Len(), "what has expired is off the list")
			for _, s := range []server{one, two} {
				require.NoError(t, s.rev.Close())
				require.NoError(t, s.rev.Close())
			}
		}
	})
}

// A list that cannot be read any more: the last one counts, until it is too old where that was asked for.
func TestUnreadableRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{Memory: session.NewMemory()}
		var errs atomic.Int32
		rev, err := token.NewRevocations(t.Context(), store,
			token.RevocationOptions{MaxAge: time.Minute, Error: func(error) {
				errs.Add(1)
			}})
		require.NoError(t, err)
		defer rev.Close()
		a := authority(t, token.Options{Revocations: rev, TTL: time.Hour})
		s, err := a.Sign(token.Claims{})
		require.NoError(t, err)
		store.down.Store(true)
		time.Sleep(59 * time.Second)
		_, err = a.Verify(s)
		require.NoError(t, err)
		require.Positive(t, errs.Load())
		time.Sleep(2 * time.Second)
		_, err = a.Verify(s)
		require.ErrorIs(t, err, token.ErrRevoked)
		store.down.Store(false)
		time.Sleep(5 * time.Second)
		_, err = a.Verify(s)
		require.NoError(t, err)
		_, err = token.NewRevocations(t.Context(), store, token.RevocationOptions{MaxAge: time.Second})
		require.ErrorContains(t, err, "MaxAge")
		store.down.Store(true)
		_, err = token.NewRevocations(t.Context(), store, token.RevocationOptions{})
		require.Error(t, err, "a server does not start without the list")
	})
}

type failing struct {
	*session.Memory
	down atomic.Bool
}

func (f *failing) ListUser(ctx context.Context, user string, now time.Time) ([]session.Listed, error) {
	if f.down.Load() {
		return nil, context.DeadlineExceeded
	}
	return f.Memory.ListUser(ctx, user, now)
}

// The end of a refresh family ends its access tokens too, where there is a revocation list; every use of a bad token is
// told.
func TestRefreshWithRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemory()
		rev, err := token.NewRevocations(t.Context(), store, token.RevocationOptions{})
		require.NoError(t, err)
		defer rev.Close()
		var events []string
		a := authority(t, token.Options{Revocations: rev, Event: func(_ context.Context, kind, subject string) {
			events = append(events, kind+" "+subject)
		}}, edKey(t, "ed"))
		r, err := token.NewRefresher(a, token.SessionFamilies(store), token.RefreshOptions{Leeway: -1})
		require.NoError(t, err)
		p, err := r.Issue(t.Context(), token.Claims{Subject: "ada"})
		require.NoError(t, err)
		next, err := r.Refresh(t.Context(), p.Refresh)
		require.NoError(t, err)
		_, err = a.Verify(next.Access)
		require.NoError(t, err)
		_, err = r.Refresh(t.Context(), p.Refresh)
		require.ErrorIs(t, err, token.ErrReused)
		_, err = a.Verify(next.Access)
		require.ErrorIs(t, err, token.ErrRevoked)
		at := strings.LastIndexByte(next.Access, '.') + 1
		_, err = a.Verify(next.Access[:at] + strings.Map(func(r rune) rune { // every letter of the signature, changed
			if r == 'A' {
				return 'B'
			}
			return 'A'
		}, next.Access[at:]))
		require.ErrorIs(t, err, token.ErrSignature)
		require.Equal(t, []string{"refresh-reuse ada", "revoked-token ada", "bad-signature "}, events)
		st := a.Stats()
		require.EqualValues(t, 1, st.BadSignature)
		require.EqualValues(t, 1, st.Revoked)
		require.EqualValues(t, 2, st.Signed)
	})
}

// New keys reach a fleet without a token that some server refuses.
func TestSetKeys(t *testing.T) {
	for _, f := range formats {
		old, next := key("old"), edKey(t, "new")
		one, two := authority(t, token.Options{Format: f}, old), authority(t, token.Options{Format: f}, old)
		check := func() {
			for _, a := range []*token.Authority{one, two} {
				s, err := a.Sign(token.Claims{})
				require.NoError(t, err)
				for _, b := range []*token.Authority{one, two} {
					_, err = b.Verify(s)
					require.NoError(t, err)
				}
			}
		}
		for _, keys := range [][]token.Key{{old, next}, {next, old}, {next}} {
			require.NoError(t, one.SetKeys(keys))
			check()
			require.NoError(t, two.SetKeys(keys))
			check()
		}
		require.Error(t, one.SetKeys(nil))
		require.Error(t, one.SetKeys([]token.Key{next, next}))
		check()
	}
}
