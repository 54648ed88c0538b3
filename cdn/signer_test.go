package cdn

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := SigningKey{"old", bytes.Repeat([]byte("a"), 32)}
		s, err := NewSigner(SignerOptions{Keys: []SigningKey{old}})
		require.NoError(t, err)
		// rotated
		edge, err := NewSigner(SignerOptions{Keys: []SigningKey{{"new", bytes.Repeat([]byte("b"), 32)}, old}})
		require.NoError(t, err)
		ask := func(target, client string, cookie *http.Cookie) error {
			r := httptest.NewRequest("GET", target, nil)
			r.RemoteAddr = client + ":9"
			if cookie != nil {
				r.AddCookie(cookie)
			}
			return edge.Verify(r)
		}
		sign := func(target string, g Grant) string {
			u, err := url.Parse(target)
			require.NoError(t, err)
			out, err := s.Sign(u, g)
			require.NoError(t, err)
			return out
		}
		hour := time.Now().Add(time.Hour)
		one := sign("http://a.example/film%2F1?q=1", Grant{Until: hour})
		require.NoError(t, ask(one, "192.0.2.1", nil))
		require.ErrorIs(t, ask("http://a.example/film", "192.0.2.1", nil), ErrNotSigned)
		for _, changed := range []string{
			strings.Replace(one, "film%2F1", "film/1", 1), strings.Replace(one, "q=1", "q=2", 1), one + "&x=1",
			one[:len(one)-1],
			strings.Replace(one, "sig=old", "sig=new", 1), strings.Replace(one, "sig=", "sig=.", 1),
		} {
			require.Error(t, ask(changed, "192.0.2.1", nil), changed)
		}
		album := sign("http://a.example/album/7/x", Grant{Until: hour, Prefix: "/album/7/"})
		_, query, _ := strings.Cut(album, "?")
		require.NoError(t, ask("http://a.example/album/7/other?"+query, "192.0.2.1", nil))
		require.Error(t, ask("http://a.example/album/8/x?"+query, "192.0.2.1", nil))
		require.Error(t, ask("http://a.example/album/7/../8/x?"+query, "192.0.2.1", nil))
		home := sign("http://a.example/x", Grant{Until: hour, Client: netip.MustParsePrefix("192.0.2.0/24")})
		require.NoError(t, ask(home, "192.0.2.200", nil))
		require.ErrorIs(t, ask(home, "198.51.100.1", nil), ErrBadSigned)
		cookie, err := s.Cookie(Grant{Until: hour, Prefix: "/album/"})
		require.NoError(t, err)
		require.NoError(t, ask("http://a.example/album/9", "192.0.2.1", cookie))
		require.Error(t, ask("http://a.example/secret", "192.0.2.1", cookie))
		time.Sleep(time.Hour)
		require.ErrorIs(t, ask(one, "192.0.2.1", nil), ErrExpired)
	})
}

func TestSignedURLsShareOneObject(t *testing.T) {
	s, err := NewSigner(SignerOptions{Keys: []SigningKey{{"k", bytes.Repeat([]byte("a"), 32)}}})
	require.NoError(t, err)
	origin := &site{h: reply(200, "film", "Cache-Control: max-age=60")}
	h := s.Require(newCache(t, Options{}).Handler(origin))
	for i := range 3 {
		u, _ := url.Parse("http://a.example/film?part=1")
		signed, err := s.Sign(u, Grant{Until: time.Now().Add(time.Duration(i+1) * time.Hour)})
		require.NoError(t, err)
		require.Equal(t, "film", text(do(h, "GET", signed)))
	}
	require.Equal(t, 1, origin.count())
	require.Equal(t, 403, do(h, "GET", "http://a.example/film?part=1").StatusCode)
	for _, bad := range []SignerOptions{{}, {Keys: []SigningKey{{"k", []byte("short")}}},
		{Keys: []SigningKey{{"k", bytes.Repeat([]byte("a"), 32)}}, Param: "a b"}} {
		_, err := NewSigner(bad)
		require.Error(t, err)
	}
}

func TestAssets(t *testing.T) {
	css := bytes.Repeat([]byte("body { color: red }\n"), 200)
	a, err := NewAssets(fstest.MapFS{"css/site.css": {Data: css},
		"a.png": {Data: []byte("\x89PNG\r\n\x1a\n" + strings.Repeat("x", 1000))}}, "/static/")
	require.NoError(t, err)
	u := a.URL("css/site.css")
	require.Regexp(t, `^/static/css/site\.[0-9a-f]{16}\.css$`, u)
	require.Empty(t, a.URL("nothing"))
	h := newCache(t, Options{}).Handler(a)
	tags := map[string]bool{}
	for _, c := range []struct{ accept, coding string }{{"br, gzip", "br"}, {"gzip", "gzip"}, {"zstd", "zstd"},
		{"br;q=0, gzip", "gzip"}, {"*", ""}, {"", ""}, {"identity", ""}} {
		res := do(h, "GET", "http://a.example"+u, "Accept-Encoding: "+c.accept)
		if c.accept != "*" {
			require.Equal(t, c.coding, res.Header.Get("Content-Encoding"), c.accept)
		}
		tags[res.Header.Get("Etag")] = true
		var body io.Reader = res.Body
		switch res.Header.Get("Content-Encoding") {
		case "br":
			body = brotli.NewReader(body)
		case "gzip":
			body, err = gzip.NewReader(body)
			require.NoError(t, err)
		case "zstd":
			d, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
			require.NoError(t, err)
			defer d.Close()
			body = d
		}
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, css, got)
		require.Contains(t, res.Header.Get("Cache-Control"), "immutable")
	}
	require.Len(t, tags, 4)
	require.Empty(t, do(h, "GET", "http://a.example"+a.URL("a.png"),
		"Accept-Encoding: br").Header.Get("Content-Encoding"))
	require.Equal(t, 404, do(h, "GET", "http://a.example/static/css/site.css").StatusCode)
	require.Equal(t, 206, do(a, "GET", "http://a.example"+u, "Range: bytes=0-3").StatusCode)
	_, err = NewAssets(fstest.MapFS{}, "static")
	require.Error(t, err)
}

func FuzzHeaders(f *testing.F) {
	f.Add("max-age=60, no-cache=\"a, b\"", "Sun, 06 Nov 1994 08:49:37 GMT", "bytes=0-5", "a;q=0.5, b")
	f.Fuzz(func(t *testing.T, cc, date, rng, list string) {
		d := parseDirectives([]string{cc})
		if d.maxAge < -1 || d.maxAge > 1<<31*time.Second {
			t.Fatalf("max-age %v", d.maxAge)
		}
		parseTargeted([]string{cc})
		if at, ok := parseDate([]string{date}); ok && at.Year() < 1 {
			t.Fatalf("date %v", at)
		}
		if from, to, ok := parseRange(rng, 100); ok && from >= 0 && (to < from || to > 99) {
			t.Fatalf("range %d-%d", from, to)
		}
		h := http.Header{"Accept-X": {list}, "Other": {cc}}
		one := selectorsOf(nil, []string{"Accept-X", "Other"}, h)
		if other := selectorsOf(nil, []string{"Accept-X", "Other"}, h); one != other {
			t.Fatal("selectors differ")
		}
		etagListed([]string{list}, `"x"`)
		preferred([]string{list})
	})
}
