package token_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session/token"
)

// issuer serves its keys over https.
type issuer struct {
	a      *token.Authority
	server *httptest.Server
	reads  atomic.Int32
	answer atomic.Pointer[http.HandlerFunc] // instead of the keys
}

func newIssuer(t *testing.T, keys ...token.Key) *issuer {
	i := &issuer{a: authority(t, token.Options{Format: token.JWT, Issuer: "https://idp.example", Audience: "shop"},
		keys...)}
	i.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.reads.Add(1)
		if h := i.answer.Load(); h != nil {
			(*h)(w, r)
			return
		}
		i.a.JWKSHandler().ServeHTTP(w, r)
	}))
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) verifier(t *testing.T, o token.VerifierOptions) *token.Verifier {
	o.Issuer, o.Audience, o.Client = "https://idp.example", "shop", i.server.Client()
	v, err := token.NewVerifier(i.server.URL, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, v.Close())
		require.NoError(t, v.Close())
		i.server.Client().CloseIdleConnections()
	})
	return v
}

func (i *issuer) sign(t *testing.T, c token.Claims) string {
	s, err := i.a.Sign(c)
	require.NoError(t, err)
	return s
}

func TestVerifier(t *testing.T) {
	ed, ec, secret := edKey(t, "ed"), ecKey(t, "ec"), key("hmac")
	i := newIssuer(t, ed, ec, secret)
	require.NotContains(t, string(i.a.JWKS()), "hmac", "a secret stays one")
	v := i.verifier(t, token.VerifierOptions{Again: time.Hour})
	for _, k := range [][]token.Key{{ed, ec, secret}, {ec, ed, secret}} {
		require.NoError(t, i.a.SetKeys(k))
		c, err := v.Verify(t.Context(), i.sign(t, token.Claims{Subject: "ada"}))
		require.NoError(t, err)
		require.Equal(t, "ada", c.Subject)
	}
	_, err := v.Verify(t.Context(), i.sign(t, token.Claims{Audience: "other"}))
	require.ErrorIs(t, err, token.ErrAudience)
	_, err = v.Verify(t.Context(), i.sign(t, token.Claims{Issuer: "https://evil.example"}))
	require.ErrorIs(t, err, token.ErrAudience)

	// Tokens with keys that nobody knows make at most one read.
	before := i.reads.Load()
	require.NoError(t, i.a.SetKeys([]token.Key{secret}))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			s, err := i.a.Sign(token.Claims{})
			if err == nil {
				_, err = v.Verify(context.Background(), s)
			}
			if !errors.Is(err, token.ErrUnknownKey) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, i.reads.Load()-before, int32(1))

	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := token.FromContext(r.Context())
		require.True(t, ok)
		_, _ = w.Write([]byte(c.Subject))
	}))
	require.NoError(t, i.a.SetKeys([]token.Key{ed}))
	for code, s := range map[int]string{200: i.sign(t, token.Claims{Subject: "ada"}), 401: "x"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+s)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, code, w.Code)
	}
}

// A key that the issuer adds is found when its first token comes; one that it takes away ends; a failing issuer changes
// nothing.
func TestVerifierFollowsTheIssuer(t *testing.T) {
	old, next := edKey(t, "old"), ecKey(t, "new")
	i := newIssuer(t, old)
	v := i.verifier(t, token.VerifierOptions{Again: time.Second})
	first := i.sign(t, token.Claims{})
	_, err := v.Verify(t.Context(), first)
	require.NoError(t, err)
	require.NoError(t, i.a.SetKeys([]token.Key{next}))
	second := i.sign(t, token.Claims{})
	require.Eventually(t, func() bool {
		_, err := v.Verify(context.Background(), second)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	_, err = v.Verify(t.Context(), first)
	require.ErrorIs(t, err, token.ErrUnknownKey)

	for name, h := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusFound)
		},
		"too large": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 1<<20+1)) },
		"no keys":   func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"nonsense":  func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
	} {
		told := make(chan error, 100)
		i.answer.Store(nil)
		v := i.verifier(t, token.VerifierOptions{Refresh: time.Second, Error: func(err error) {
			select {
			case told <- err:
			default:
			}
		}})
		_, err := v.Verify(t.Context(), second)
		require.NoError(t, err)
		i.answer.Store(&h)
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Fatal(name)
		}
		_, err = v.Verify(t.Context(), second)
		require.NoError(t, err, name)
		require.NoError(t, v.Close())
	}
	v2 := i.verifier(t, token.VerifierOptions{})
	_, err = v2.Verify(t.Context(), second)
	require.ErrorIs(t, err, token.ErrKeysUnavailable)
}

func TestVerifierOptions(t *testing.T) {
	o := token.VerifierOptions{Issuer: "i", Audience: "a"}
	for _, u := range []string{"http://idp.example/keys", "https://", "idp.example", "file:///etc/passwd",
		"https://u:p@idp.example/"} {
		_, err := token.NewVerifier(u, o)
		require.ErrorContains(t, err, "https", u)
	}
	for field, o := range map[string]token.VerifierOptions{"Issuer": {Audience: "a"}, "Audience": {Issuer: "i"},
		"Refresh": {Issuer: "i", Audience: "a", Refresh: 1}, "Again": {Issuer: "i", Audience: "a", Again: 1},
		"Leeway": {Issuer: "i", Audience: "a", Leeway: time.Hour}} {
		_, err := token.NewVerifier("https://idp.example/keys", o)
		require.ErrorContains(t, err, field)
	}
}

// What is not a public key to verify signatures with is passed over.
func TestKeySets(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rs := authority(t, token.Options{}, key("signs"), token.Key{ID: "rsa", Alg: token.RS256, Public: &priv.PublicKey},
		edKey(t, "ed"), ecKey(t, "ec"))
	set := string(rs.JWKS())
	require.Equal(t, []string{"rsa RS256", "ed EdDSA", "ec ES256"}, keyNames(t, set))
	off := strings.Replace(strings.Replace(strings.Replace(
		string(authority(t, token.Options{}, key("s"), ecKey(t, "off")).JWKS()), `"x"`, `"z"`, 1), `"y"`, `"x"`, 1),
		`"z"`, `"y"`, 1)
	require.Error(t, token.CheckKeySet([]byte(off)), "not on the curve")
	junk := `{"keys":[{"kty":"oct","kid":"o","k":"AAAA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"EC","crv":"P-384","x":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB"},` +
		`{"kty":"OKP","crv":"X25519","x":"AAAA"},{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"},` +
		strings.TrimPrefix(set, `{"keys":[`)
	require.Len(t, keyNames(t, junk), 3)
	double := strings.Replace(set, `{"keys":[`, `{"keys":[`+
		strings.TrimSuffix(strings.TrimPrefix(set, `{"keys":[`), "]}")+",", 1)
	require.ErrorContains(t, token.CheckKeySet([]byte(double)), "two keys")
	for _, bad := range []string{"", "null", "{}", `{"keys":[{"kty":"oct","k":"AAAA"}]}`, `{"keys":[` +
		strings.Repeat(`{},`, 200) + `{}]}`} {
		require.Error(t, token.CheckKeySet([]byte(bad)), bad)
	}
}

func keyNames(t *testing.T, set string) []string {
	names, err := token.KeySetNames([]byte(set))
	require.NoError(t, err)
	return names
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) { _ = token.CheckKeySet(b) })
}
