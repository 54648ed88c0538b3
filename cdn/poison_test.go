package cdn

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// gullible believes everything that a request says about itself, and lets all be cached.
func gullible(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=60")
	size := 0
	for k, vs := range r.Header {
		size += len(k) + len(strings.Join(vs, ""))
	}
	switch {
	case size > 16<<10:
		http.Error(w, "header too large", http.StatusRequestHeaderFieldsTooLarge)
		w.Header().Set("Cache-Control", "max-age=60")
		return
	case r.Header.Get("X-Http-Method-Override") != "" || r.Header.Get("X-Method-Override") != "":
		w.WriteHeader(http.StatusNotFound)
		return
	}
	host := r.Host
	for _, k := range []string{"X-Forwarded-Host", "X-Host", "X-Forwarded-Server", "X-Http-Host-Override",
		"Forwarded"} {
		if v := r.Header.Get(k); v != "" {
			host = v
		}
	}
	scheme := "https"
	for _, k := range []string{"X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Url-Scheme"} {
		if v := r.Header.Get(k); v != "" {
			scheme = v
		}
	}
	path := r.URL.Path
	for _, k := range []string{"X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Prefix"} {
		if v := r.Header.Get(k); v != "" {
			path = v
		}
	}
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "<script src=%s://%s%s></script> to %s%s %s%s", scheme, host, path, r.Header.Get("X-Real-Ip"),
		r.Header.Get("True-Client-Ip"), body, r.Header.Get("Range"))
}

// The poisoning list: one request with something in it that is not part of the key, then a victim's.
func TestPoisoning(t *testing.T) {
	const clean = "<script src=https://a.example/page></script> to  "
	for _, lines := range [][]string{
		{"X-Forwarded-Host: evil.example"}, {"X-Host: evil.example"}, {"X-Forwarded-Server: evil.example"},
		{"X-HTTP-Host-Override: evil.example"},
		{"Forwarded: host=evil.example"}, {"X-Forwarded-Proto: gopher"}, {"X-Forwarded-Scheme: http"},
		{"X-URL-Scheme: http"}, {"X-Original-URL: /admin"},
		{"X-Rewrite-URL: /admin"}, {"X-Forwarded-Prefix: //evil.example"}, {"X-HTTP-Method-Override: DELETE"},
		{"X-Method-Override: POST"}, {"X-Real-IP: 6.6.6.6"},
		{"True-Client-IP: 6.6.6.6"}, {"Range: bytes=0-0"}, {"Range: bytes=999999-"}, {"If-None-Match: *"},
		{"If-Match: \"no\""}, {"If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT"},
		{"Expect: nonsense"}, {"X-Padding: " + strings.Repeat("x", 20<<10)}, {"Cache-Control: no-store"},
		{"Connection: Host"},
	} {
		c := newCache(t, Options{})
		h := c.Handler(http.HandlerFunc(gullible))
		do(h, "GET", "https://a.example/page", lines...)
		settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
		res := do(h, "GET", "https://a.example/page")
		require.Equal(t, 200, res.StatusCode, lines)
		require.Equal(t, clean, text(res), lines)
	}
	c := newCache(t, Options{Unkeyed: []string{"x-forwarded-proto"}})
	res := do(c.Handler(http.HandlerFunc(gullible)), "GET", "https://a.example/page", "X-Forwarded-Proto: http")
	require.Contains(t, text(res), "http://", "who lists a field takes the risk")
}

// A GET with a body, and other hosts and paths that look alike, never meet.
func TestLookalikesDoNotMeet(t *testing.T) {
	c := newCache(t, Options{})
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, r.Host, r.URL.EscapedPath(), "?", r.URL.RawQuery)
	}))
	seen := map[string]string{}
	for _, u := range []string{
		"http://a.example/a/b", "http://a.example/a%2Fb", "http://a.example/a/../b", "http://a.example/a/./b",
		"http://a.example/a//b", "http://a.example/a/b/", "http://a.example/A/b",
		"http://a.example/a/b;x", "http://a.example/a/b%00", "http://a.example/a/b%0d%0a",
		"http://a.example/a/b?x=1&x=2", "http://a.example/a/b?x=1;x=2", "http://a.example/a/b?x=2&x=1",
		"http://a.example/a/b?utm_source=x", "http://a.example:8080/a/b", "http://a.example./a/b",
		"http://b.example/a/b",
	} {
		body := text(do(h, "GET", u))
		require.Empty(t, seen[body], u)
		seen[body] = u
		require.Equal(t, body, text(do(h, "GET", u)), "and each is its own hit")
	}
}

// Cache deception: a private page under a name that looks like a static file. Only what the origin says counts, never
// the name.
func TestDeceptivePaths(t *testing.T) {
	for _, path := range []string{"/account/x.css", "/account%2Fx.js", "/account;.png", "/account/..%2Fstatic/x.css",
		"/account.php/x.ico", "/account?x=.css"} {
		for name, lines := range map[string][]string{
			"nothing said": nil, "only dated": {"Last-Modified: " + ago(1000*3600*1e9)},
			"private":       {"Cache-Control: private, max-age=60"},
			"with a cookie": {"Cache-Control: max-age=60", "Set-Cookie: sid=1"},
		} {
			c := newCache(t, Options{})
			h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reply(200, "account of "+r.Header.Get("Cookie"), lines...)(w, r)
			}))
			do(h, "GET", "http://a.example"+path, "Cookie: victim")
			require.Equal(t, "account of thief", text(do(h, "GET", "http://a.example"+path, "Cookie: thief")), "%s, %s",
				path, name)
		}
	}
}
