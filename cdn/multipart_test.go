package cdn

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parts reads a multipart answer.
func parts(t *testing.T, header http.Header, body io.Reader) (out []string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", kind)
	b, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(len(b)), header.Get("Content-Length"))
	for r := multipart.NewReader(bytes.NewReader(b), params["boundary"]); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		data, err := io.ReadAll(p)
		require.NoError(t, err)
		out = append(out, p.Header.Get("Content-Type")+"|"+p.Header.Get("Content-Range")+"|"+string(data))
	}
}

func TestSeveralRanges(t *testing.T) {
	c := newCache(t, Options{})
	h := c.Handler(reply(200, "0123456789", "Cache-Control: max-age=60", `ETag: "v1"`, "Content-Length: 10",
		"Content-Type: text/plain"))
	do(h, "GET", "http://a.example/x")
	settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
	for rng, want := range map[string][]string{
		"bytes=0-1,3-4": {"text/plain|bytes 0-1/10|01", "text/plain|bytes 3-4/10|34"},
		"bytes=8-, 0-0 ,-2": {"text/plain|bytes 8-9/10|89", "text/plain|bytes 0-0/10|0",
			"text/plain|bytes 8-9/10|89"},
		"bytes=0-1,30-40,-1": {"text/plain|bytes 0-1/10|01", "text/plain|bytes 9-9/10|9"},
		"bytes=9-9,0-0,0-0,5-5": {"text/plain|bytes 9-9/10|9", "text/plain|bytes 0-0/10|0", "text/plain|bytes 0-0/10|0",
			"text/plain|bytes 5-5/10|5"},
	} {
		res := do(h, "GET", "http://a.example/x", "Range: "+rng)
		require.Equal(t, 206, res.StatusCode, rng)
		require.Empty(t, res.Header.Get("Content-Range"))
		require.Equal(t, want, parts(t, res.Header, res.Body), rng)
	}
	for rng, want := range map[string]int{
		"bytes=0-9,0-9":                          200, // more than there is
		"bytes=0-0" + strings.Repeat(",1-1", 16): 200, // too many
		"bytes=0-1,x":                            200,
		"bytes=20-30,40-50":                      416,
		"bytes=0-1,40-50":                        206,
	} {
		res := do(h, "GET", "http://a.example/x", "Range: "+rng)
		require.Equal(t, want, res.StatusCode, rng)
	}
	require.Equal(t, "01", text(do(h, "GET", "http://a.example/x", "Range: bytes=0-1,40-50")))
}

func TestSeveralRangesOfSlices(t *testing.T) {
	f := newFilm(1 << 20)
	_, url := sliced(t, f, Options{})
	_, _, err := fetch(t, url+"/film", "Range: bytes=0-0")
	require.NoError(t, err)
	res, body, err := fetch(t, url+"/film", "Range: bytes=65530-65545,1000000-1000009")
	require.NoError(t, err)
	require.Equal(t, 206, res.StatusCode)
	d := *f.data.Load()
	require.Equal(t, []string{
		"video/mp4|bytes 65530-65545/1048576|" + string(d[65530:65546]), "video/mp4|bytes 1000000-1000009/1048576|" +
			string(d[1000000:1000010]),
	}, parts(t, res.Header, bytes.NewReader(body)))
}

func TestTextIsCompressedOnTheWay(t *testing.T) {
	page := strings.Repeat("hello world, ", 1000)
	c := newCache(t, Options{Compress: true})
	s := &site{h: func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Set("Content-Type", "text/html")
		h.Set("ETag", `"v1"`)
		switch r.URL.Path {
		case "/fixed":
			h.Set("Cache-Control", "max-age=60, no-transform")
		case "/image":
			h.Set("Content-Type", "image/png")
		case "/packed":
			h.Set("Content-Encoding", "br")
		}
		io.WriteString(w, page)
	}}
	h := c.Handler(s)
	get := func(path string, lines ...string) *http.Response {
		return do(h, "GET", "http://a.example"+path, lines...)
	}
	const takes = "Accept-Encoding: br;q=0, gzip"
	plain := get("/page", takes)
	require.Empty(t, plain.Header.Get("Content-Encoding"))
	require.Equal(t, "Accept-Encoding", plain.Header.Get("Vary"), "whoever caches it behind us must know")
	var res *http.Response
	settle(t, "packed", func() bool {
		res = get("/page", takes)
		return res.Header.Get("Content-Encoding") == "gzip"
	})
	require.Equal(t, `W/"v1"`, res.Header.Get("Etag"))
	require.Equal(t, "Accept-Encoding", res.Header.Get("Vary"))
	require.Contains(t, res.Header.Get("Cache-Status"), "hit")
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(len(b)), res.Header.Get("Content-Length"))
	require.Less(t, len(b), len(page)/10)
	r, err := gzip.NewReader(bytes.NewReader(b))
	require.NoError(t, err)
	b, err = io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, page, string(b))
	require.Equal(t, 304, get("/page", takes, `If-None-Match: W/"v1"`).StatusCode)
	require.Equal(t, page, text(get("/page")), "who does not take it gets it plain")
	require.Equal(t, page, text(get("/page", "Accept-Encoding: gzip;q=0, *")))
	require.Equal(t, page[:5], text(get("/page", takes, "Range: bytes=0-4")))
	require.Equal(t, 1, s.count())
	require.Equal(t, 2, c.Stats().Objects, "both forms count")
	for _, path := range []string{"/fixed", "/image", "/packed"} {
		for range 3 {
			require.NotEqual(t, "gzip", get(path, takes).Header.Get("Content-Encoding"), path)
		}
		require.Empty(t, get(path, takes).Header.Get("Vary"), path)
	}
	n, err := c.Purge(t.Context(), Match{All: true})
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.Zero(t, c.Stats().Objects, "and both are gone")
	require.Zero(t, c.Stats().Bytes)
}
