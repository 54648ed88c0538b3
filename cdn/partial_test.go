package cdn

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An answer that broke off is resumed, byte by byte the same, and only while the content is the same.
func TestBrokenFillIsResumed(t *testing.T) {
	for _, changed := range []bool{false, true} {
		t.Run(fmt.Sprint("changed=", changed), func(t *testing.T) {
			c := newCache(t, Options{})
			v1, v2 := bytes.Repeat([]byte("0123456789"), 30_000), bytes.Repeat([]byte("abcdefghij"), 25_000)
			s := &site{}
			s.h = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				body, tag := v1, `"v1"`
				if changed && s.count() > 1 {
					body, tag = v2, `"v2"`
				}
				w.Header().Set("ETag", tag)
				if s.count() == 1 {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					w.Write(body[:200_000])
					panic(http.ErrAbortHandler)
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
			}
			srv := httptest.NewServer(c.Handler(s))
			defer srv.Close()
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			get := func() (string, error) {
				req, _ := http.NewRequest("GET", srv.URL, nil)
				res, err := tr.RoundTrip(req)
				if err != nil {
					return "", err
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				return string(b), err
			}
			_, err := get()
			require.Error(t, err)
			settle(t, "part", func() bool { return c.Stats().Objects == 1 })
			got, err := get()
			require.NoError(t, err)
			want := string(v1)
			if changed {
				want = string(v2)
			}
			require.True(t, got == want)
			require.Regexp(t, `^bytes=\d+-$`, s.last.Get("Range"))
			require.NotEqual(t, "bytes=0-", s.last.Get("Range"))
			got, err = get()
			require.NoError(t, err)
			require.True(t, got == want)
			require.Equal(t, 2, s.count())
			settle(t, "one object", func() bool { return c.Stats().Objects == 1 })
		})
	}
}

func TestPostThatTellsWhatGetWouldGive(t *testing.T) {
	c := newCache(t, Options{})
	s := &site{h: reply(200, "made", "Content-Location: /x", "Cache-Control: max-age=60")}
	h := c.Handler(s)
	require.Equal(t, "made", text(do(h, "POST", "http://a.example/x")))
	require.Equal(t, "made", text(do(h, "GET", "http://a.example/x")))
	require.Equal(t, 1, s.count())
	do(h, "POST", "http://a.example/y")
	do(h, "GET", "http://a.example/y")
	require.Equal(t, 3, s.count(), "another URL's content")
}

func TestVaryLanguage(t *testing.T) {
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language")
		w.Header().Set("Content-Language", strings.SplitN(r.Header.Get("Accept-Language"), ",", 2)[0])
	}}
	h := newCache(t, Options{VaryLanguage: true}).Handler(s)
	for i, lang := range []string{"de", "de, en;q=0.5", "en;q=0.3, de;q=0.9", "DE"} {
		do(h, "GET", "http://a.example/", "Accept-Language: "+lang)
		require.Equal(t, 1, s.count(), i)
	}
	do(h, "GET", "http://a.example/", "Accept-Language: en, de")
	require.Equal(t, 2, s.count())
}
