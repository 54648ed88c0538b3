package token_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/session/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(id string) token.Key {
	return token.Key{ID: id, Secret: []byte(strings.Repeat(id+"!", 32)[:32])}
}

func authority(t testing.TB, o token.Options, keys ...token.Key) *token.Authority {
	if keys == nil {
		keys = []token.Key{key("k1")}
	}
	a, err := token.New(keys, o)
	require.NoError(t, err)
	return a
}

var formats = map[string]token.Format{"compact": token.Compact, "jwt": token.JWT}

func TestRoundTrip(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			a := authority(t, token.Options{Format: f, Issuer: "iss", Audience: "aud"})
			now := time.Now().Truncate(time.Second)
			c := token.Claims{ID: "1", Subject: "ada ✓", IssuedAt: now, NotBefore: now, Expires: now.Add(time.Minute),
				Extra: map[string]string{"role": "admin", "x": ""}}
			s, err := a.Sign(c)
			require.NoError(t, err)
			got, err := a.Verify(s)
			require.NoError(t, err)
			c.Issuer, c.Audience = "iss", "aud"
			require.Equal(t, c, got)
			before := time.Now().Add(-time.Second) // times are cut to seconds
			s, err = a.Sign(token.Claims{Subject: "x"})
			require.NoError(t, err)
			after := time.Now()
			got, err = a.Verify(s)
			require.NoError(t, err)
			require.WithinRange(t, got.Expires, before.Add(15*time.Minute), after.Add(15*time.Minute))
		})
	}
}

func TestEveryChangedByteIsRefused(t *testing.T) {
	for name, f := range formats {
		a := authority(t, token.Options{Format: f})
		s, err := a.Sign(token.Claims{Subject: "ada"})
		require.NoError(t, err)
		for i := range s {
			for _, c := range []byte{s[i] ^ 1, 'A', '.', 0} {
				if c == s[i] {
					continue
				}
				_, err := a.Verify(s[:i] + string(c) + s[i+1:])
				require.Error(t, err, "%s at %d", name, i)
			}
			_, err := a.Verify(s[:i])
			require.Error(t, err)
		}
		_, err = a.Verify(s + "A")
		require.Error(t, err)
		_, err = a.Verify(strings.Repeat(".", 5000))
		require.ErrorIs(t, err, token.ErrMalformed)
		_, err = a.Verify(strings.Repeat("A", 10_000))
		require.ErrorIs(t, err, token.ErrMalformed)
	}
}

func TestClock(t *testing.T) {
	for _, f := range formats {
		synctest.Test(t, func(t *testing.T) {
			a := authority(t, token.Options{Format: f, Leeway: 5 * time.Second})
			now := time.Now()
			s, err := a.Sign(token.Claims{Expires: now.Add(time.Minute), NotBefore: now.Add(20 * time.Second)})
			require.NoError(t, err)
			_, err = a.Verify(s)
			require.ErrorIs(t, err, token.ErrNotYet)
			time.Sleep(15 * time.Second)
			_, err = a.Verify(s)
			require.NoError(t, err)
			time.Sleep(50*time.Second - time.Nanosecond)
			_, err = a.Verify(s)
			require.NoError(t, err)
			time.Sleep(time.Nanosecond)
			_, err = a.Verify(s)
			require.ErrorIs(t, err, token.ErrExpired)
		})
	}
}

func TestAudienceAndIssuer(t *testing.T) {
	for _, f := range formats {
		a := authority(t, token.Options{Format: f})
		s, err := a.Sign(token.Claims{Issuer: "them", Audience: "others"})
		require.NoError(t, err)
		_, err = authority(t, token.Options{Format: f, Audience: "us"}).Verify(s)
		require.ErrorIs(t, err, token.ErrAudience)
		_, err = authority(t, token.Options{Format: f, Issuer: "us"}).Verify(s)
		require.ErrorIs(t, err, token.ErrAudience)
	}
}

func TestRotation(t *testing.T) {
	for _, f := range formats {
		a := authority(t, token.Options{Format: f})
		old, err := a.Sign(token.Claims{Subject: "x"})
		require.NoError(t, err)
		require.NoError(t, a.Rotate(key("k2")))
		require.Error(t, a.Rotate(key("k2")))
		s, err := a.Sign(token.Claims{Subject: "x"})
		require.NoError(t, err)
		_, err = a.Verify(old)
		require.NoError(t, err)
		require.Error(t, a.Drop("k2"), "the signing key")
		require.NoError(t, a.Drop("k1"))
		_, err = a.Verify(old)
		require.ErrorIs(t, err, token.ErrUnknownKey)
		_, err = a.Verify(s)
		require.NoError(t, err)
	}
}

func b64(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}

// RFC 8725 and the classic attacks.
func TestJWTRules(t *testing.T) {
	a := authority(t, token.Options{Format: token.JWT})
	good, err := a.Sign(token.Claims{Subject: "x"})
	require.NoError(t, err)
	parts := strings.Split(good, ".")
	exp := time.Now().Add(time.Hour).Unix()
	for name, h := range map[string]any{
		"none":        map[string]any{"alg": "none", "kid": "k1"},
		"None":        map[string]any{"alg": "NONE"},
		"other alg":   map[string]any{"alg": "HS512", "kid": "k1"},
		"rsa":         map[string]any{"alg": "RS256", "kid": "k1"},
		"crit":        map[string]any{"alg": "HS256", "kid": "k1", "crit": []string{"exp"}},
		"unknown kid": map[string]any{"alg": "HS256", "kid": "../../etc/passwd"},
		"typ":         map[string]any{"alg": "HS256", "kid": "k1", "typ": "dpop+jwt"},
	} {
		for _, sig := range []string{"", parts[2]} {
			_, err := a.Verify(b64(h) + "." + b64(map[string]any{"sub": "x", "exp": exp}) + "." + sig)
			require.Error(t, err, name)
		}
	}
	_, err = a.Verify(good + "=")
	require.Error(t, err, "padding")
	_, err = a.Verify(parts[0] + "." + parts[1] + "." + parts[2] + "." + parts[2])
	require.ErrorIs(t, err, token.ErrMalformed)
	_, err = a.Sign(token.Claims{Extra: map[string]string{"exp": "never"}})
	require.ErrorContains(t, err, "exp")
}

func TestKeysAreChecked(t *testing.T) {
	for _, k := range []token.Key{{ID: "", Secret: make([]byte, 32)}, {ID: "a.b", Secret: make([]byte, 32)},
		{ID: "short", Secret: make([]byte, 31)}} {
		_, err := token.New([]token.Key{k}, token.Options{})
		require.Error(t, err)
	}
	_, err := token.New(nil, token.Options{})
	require.Error(t, err)
	_, err = token.New([]token.Key{key("a"), key("a")}, token.Options{})
	require.Error(t, err)
	for field, o := range map[string]token.Options{"Format": {Format: 9}, "TTL": {TTL: 1},
		"Leeway": {Leeway: time.Hour}} {
		_, err := token.New([]token.Key{key("a")}, o)
		require.ErrorContains(t, err, field)
	}
}

func TestMiddleware(t *testing.T) {
	a := authority(t, token.Options{})
	h := a.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := token.FromContext(r.Context())
		require.True(t, ok)
		_, _ = w.Write([]byte(c.Subject))
	}))
	s, _ := a.Sign(token.Claims{Subject: "ada"})
	for _, c := range []struct {
		header string
		code   int
	}{{"Bearer " + s, 200}, {"bearer " + s, 200}, {"", 401}, {"Basic " + s, 401}, {"Bearer x", 401}, {"Bearer", 401}} {
		r := httptest.NewRequest("GET", "/", nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, c.code, w.Code, c.header)
		if c.code == 401 {
			require.Contains(t, w.Header().Get("WWW-Authenticate"), "Bearer")
		} else {
			require.Equal(t, "ada", w.Body.String())
		}
	}
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		a := authority(t, token.Options{})
		reused := ""
		r, err := token.NewRefresher(a, token.MemoryFamilies(),
			token.RefreshOptions{Reused: func(_ context.Context, subject, _ string) {
				reused = subject
			}})
		require.NoError(t, err)
		p1, err := r.Issue(ctx, token.Claims{Subject: "ada", Extra: map[string]string{"role": "x"}})
		require.NoError(t, err)
		_, err = a.Verify(p1.Refresh)
		require.Error(t, err, "a refresh token is no access token")
		_, err = r.Refresh(ctx, p1.Access)
		require.Error(t, err, "nor the other way round")
		p2, err := r.Refresh(ctx, p1.Refresh)
		require.NoError(t, err)
		c, err := a.Verify(p2.Access)
		require.NoError(t, err)
		require.Equal(t, "ada", c.Subject)
		require.Equal(t, "x", c.Extra["role"])
		time.Sleep(14 * time.Second)
		again, err := r.Refresh(ctx, p1.Refresh)
		require.NoError(t, err, "a parallel request, or a lost response")
		require.Equal(t, p2.Refresh, again.Refresh)
		time.Sleep(time.Second)
		_, err = r.Refresh(ctx, p1.Refresh)
		require.ErrorIs(t, err, token.ErrReused)
		require.Equal(t, "ada", reused)
		_, err = r.Refresh(ctx, p2.Refresh)
		require.ErrorIs(t, err, token.ErrRevoked, "thief and victim are both out")

		p, err := r.Issue(ctx, token.Claims{Subject: "bob"})
		require.NoError(t, err)
		require.NoError(t, r.Revoke(ctx, p.Refresh))
		_, err = r.Refresh(ctx, p.Refresh)
		require.ErrorIs(t, err, token.ErrRevoked)
		p, err = r.Issue(ctx, token.Claims{Subject: "bob"})
		require.NoError(t, err)
		time.Sleep(30 * 24 * time.Hour)
		_, err = r.Refresh(ctx, p.Refresh)
		require.ErrorIs(t, err, token.ErrExpired)
	})
}

// Parallel requests on two servers with the same token: all succeed, one successor.
func TestParallelRefresh(t *testing.T) {
	a := authority(t, token.Options{})
	store := token.MemoryFamilies()
	var rs []*token.Refresher
	for range 2 {
		r, err := token.NewRefresher(a, store, token.RefreshOptions{})
		require.NoError(t, err)
		rs = append(rs, r)
	}
	p, err := rs[0].Issue(t.Context(), token.Claims{Subject: "ada"})
	require.NoError(t, err)
	var mu sync.Mutex
	got := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			n, err := rs[i%2].Refresh(t.Context(), p.Refresh)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[n.Refresh] = true
		})
	}
	wg.Wait()
	require.Len(t, got, 1)
}

func TestVerifyAllocates(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	a := authority(t, token.Options{})
	s, _ := a.Sign(token.Claims{Subject: "ada"})
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _, _ = a.Verify(s) }), 2.0)
}

func FuzzVerify(f *testing.F) {
	c, j := authority(f, token.Options{}), authority(f, token.Options{Format: token.JWT})
	for _, a := range []*token.Authority{c, j} {
		s, _ := a.Sign(token.Claims{Subject: "ada", Extra: map[string]string{"a": "b"}})
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = c.Verify(s)
		_, _ = j.Verify(s)
	})
}

// What the fast reader of payloads takes, encoding/json takes in the same sense.
func TestUnusualPayloads(t *testing.T) {
	a := authority(t, token.Options{Format: token.JWT, Audience: "us"})
	exp := time.Now().Add(time.Hour).Unix()
	sign := func(payload string) string {
		h := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(payload))
		m := hmac.New(sha256.New, key("k1").Secret)
		m.Write([]byte(h))
		return h + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	for payload, subject := range map[string]string{
		fmt.Sprintf(`{"sub":"x","aud":["them","us"],"exp":%d}`, exp):                  "x",
		fmt.Sprintf(`{"sub":"\u0061da", "aud":"us", "exp":%d.5, "n":{"a":[1]}}`, exp): "ada",
		fmt.Sprintf(`{"sub":"a","sub":"b","aud":"us","exp":%d}`, exp):                 "b",
		fmt.Sprintf(`{"sub":"é","aud":"us","exp":%d,"ok":true}`, exp):                 "é",
	} {
		c, err := a.Verify(sign(payload))
		require.NoError(t, err, payload)
		require.Equal(t, subject, c.Subject)
	}
	for _, payload := range []string{`{}`, `{"exp":"9999999999","aud":"us"}`, `{"aud":"us"}`,
		fmt.Sprintf(`{"aud":"them","exp":%d}`, exp), `{"exp":-1,"aud":"us"}`,
		fmt.Sprintf(`{"aud":"us","exp":%d}{`, exp), fmt.Sprintf(`{"aud":"us","exp":%d,}`, exp), `[1]`, `null`,
		`{"exp":1e300,"aud":"us"}`} {
		_, err := a.Verify(sign(payload))
		require.Error(t, err, payload)
	}
}

func BenchmarkVerify(b *testing.B) {
	for name, f := range formats {
		a := authority(b, token.Options{Format: f})
		s, _ := a.Sign(token.Claims{Subject: "ada"})
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Verify(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
