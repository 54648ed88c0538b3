package cookie_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session/cookie"
)

type prefs struct{ Theme string }

func key(id string) cookie.Key {
	return cookie.Key{ID: id, Secret: []byte(strings.Repeat(id, 32)[:32])}
}

func jar(t *testing.T, o cookie.Options, keys ...cookie.Key) *cookie.Jar[prefs] {
	if keys == nil {
		keys = []cookie.Key{key("a")}
	}
	j, err := cookie.New[prefs](keys, o)
	require.NoError(t, err)
	return j
}

func saved(t *testing.T, j *cookie.Jar[prefs], p prefs) *http.Request {
	w := httptest.NewRecorder()
	w.Header().Add("Set-Cookie", "other=1")
	require.NoError(t, j.Save(w, prefs{"first"}))
	require.NoError(t, j.Save(w, p))
	require.Len(t, w.Result().Cookies(), 2)
	r := httptest.NewRequest("GET", "/", nil)
	for _, c := range w.Result().Cookies() {
		r.AddCookie(c)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	j := jar(t, cookie.Options{})
	r := saved(t, j, prefs{"dark"})
	p, err := j.Load(r)
	require.NoError(t, err)
	require.Equal(t, prefs{"dark"}, p)
	require.NotContains(t, r.Header.Get("Cookie"), "dark")
	p, err = j.Load(httptest.NewRequest("GET", "/", nil))
	require.NoError(t, err)
	require.Zero(t, p)
	w := httptest.NewRecorder()
	require.NoError(t, j.Save(w, prefs{}))
	c := w.Result().Cookies()[0]
	require.True(t, c.Secure && c.HttpOnly && c.Path == "/" && c.SameSite == http.SameSiteLaxMode &&
		c.Name == "__Host-data")
	w = httptest.NewRecorder()
	require.NoError(t, j.Save(w, prefs{}))
	j.Clear(w)
	require.Len(t, w.Result().Cookies(), 1)
	require.Negative(t, w.Result().Cookies()[0].MaxAge)
}

func TestForgeriesAreRefused(t *testing.T) {
	j := jar(t, cookie.Options{})
	good := saved(t, j, prefs{"dark"}).CookiesNamed("__Host-data")[0].Value
	try := func(j *cookie.Jar[prefs], name, v string) error {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", name+"="+v)
		_, err := j.Load(r)
		return err
	}
	require.NoError(t, try(j, "__Host-data", good))
	for i := range good {
		c := byte('A')
		if good[i] == c {
			c = 'B'
		}
		require.ErrorIs(t, try(j, "__Host-data", good[:i]+string(c)+good[i+1:]), cookie.ErrInvalid, i)
	}
	for _, v := range []string{"x", strings.Repeat("A", 5000), good + "A"} {
		require.ErrorIs(t, try(j, "__Host-data", v), cookie.ErrInvalid)
	}
	require.ErrorIs(t, try(jar(t, cookie.Options{}, key("b")), "__Host-data", good), cookie.ErrInvalid)
	require.ErrorIs(t, try(jar(t, cookie.Options{Name: "other"}), "other", good), cookie.ErrInvalid,
		"a cookie of another name")
}

func TestSizeIsAnError(t *testing.T) {
	j := jar(t, cookie.Options{})
	w := httptest.NewRecorder()
	require.NoError(t, j.Save(w, prefs{strings.Repeat("x", 2800)}))
	require.ErrorIs(t, j.Save(w, prefs{strings.Repeat("x", 3200)}), cookie.ErrTooLarge)
	require.Len(t, w.Result().Cookies(), 1, "what was set stays set")
}

func TestExpiryAndRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := jar(t, cookie.Options{TTL: time.Hour})
		r := saved(t, j, prefs{"dark"})
		require.NoError(t, j.Rotate(key("b")))
		time.Sleep(time.Hour - time.Nanosecond)
		_, err := j.Load(r)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = j.Load(r)
		require.ErrorIs(t, err, cookie.ErrInvalid)
		r = saved(t, j, prefs{"x"})
		require.NoError(t, j.Drop("a"))
		_, err = j.Load(r)
		require.NoError(t, err)
	})
}

func TestOptionsNameTheField(t *testing.T) {
	for field, o := range map[string]cookie.Options{"Name": {Name: "a b"}, "TTL": {TTL: 1},
		"SameSite": {SameSite: http.SameSiteNoneMode, Insecure: true}} {
		_, err := cookie.New[prefs]([]cookie.Key{key("a")}, o)
		require.ErrorContains(t, err, field)
	}
	_, err := cookie.New[prefs](nil, cookie.Options{})
	require.Error(t, err)
	_, err = cookie.New[prefs]([]cookie.Key{{ID: "a", Secret: []byte("short")}}, cookie.Options{})
	require.Error(t, err)
}

func FuzzLoad(f *testing.F) {
	jar, err := cookie.New[map[string]any]([]cookie.Key{{ID: "k", Secret: make([]byte, 32)}}, cookie.Options{})
	require.NoError(f, err)
	w := httptest.NewRecorder()
	require.NoError(f, jar.Save(w, map[string]any{"a": 1}))
	f.Add(w.Result().Cookies()[0].Value)
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, v string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", "__Host-data="+v)
		if got, err := jar.Load(r); err != nil && got != nil {
			t.Fatal("data with an error")
		}
	})
}
