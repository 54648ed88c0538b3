package cdn

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// film is an origin with one large file that answers ranges, counts what it sends, and can change.
type film struct {
	data     atomic.Pointer[[]byte]
	version  atomic.Int64
	requests atomic.Int64
	sent     atomic.Int64
	ranges   sync.Map
}

func newFilm(size int) *film {
	f := &film{}
	f.set(size)
	return f
}

func (f *film) set(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(size), uint64(f.version.Add(1))))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	f.data.Store(&b)
	return b
}

func (f *film) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	f.ranges.Store(r.Header.Get("Range"), true)
	w.Header().Set("Cache-Control", "max-age=3600")
	w.Header().Set("ETag", fmt.Sprintf(`"v%d"`, f.version.Load()))
	w.Header().Set("Surrogate-Key", "films")
	w.Header().Set("Content-Type", "video/mp4")
	http.ServeContent(&counting{w, &f.sent}, r, "", time.Time{}, bytes.NewReader(*f.data.Load()))
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

const sliceTest = 64 << 10

// sliced is an edge over real connections in front of a film.
func sliced(t *testing.T, f *film, o Options) (*Cache, string) {
	t.Helper()
	origin := httptest.NewServer(f)
	t.Cleanup(origin.Close)
	o.MaxBytes, o.MaxObject, o.SliceBytes = 4<<20, 256<<10, sliceTest
	c := newCache(t, o)
	h, err := c.Proxy(origin.URL, ProxyOptions{})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	t.Cleanup(edge.Close)
	return c, edge.URL
}

func fetch(t *testing.T, url string, lines ...string) (*http.Response, []byte, error) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ": ")
		r.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	http.DefaultClient.CloseIdleConnections()
	return res, b, err
}

func TestLargeObjectsAreKeptInSlices(t *testing.T) {
	f := newFilm(1<<20 + 12345)
	c, url := sliced(t, f, Options{})
	want := *f.data.Load()
	res, got, err := fetch(t, url+"/film")
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode)
	require.True(t, bytes.Equal(want, got))
	require.Equal(t, "video/mp4", res.Header.Get("Content-Type"))
	before := f.requests.Load()
	require.EqualValues(t, 1+17, before, "the head, and each slice once")
	for _, c := range []struct{ from, to int }{{0, 0}, {0, 1<<20 + 12344}, {65535, 65536}, {70000, 400000},
		{1 << 20, 1<<20 + 12344}} {
		res, got, err := fetch(t, url+"/film", fmt.Sprintf("Range: bytes=%d-%d", c.from, c.to))
		require.NoError(t, err)
		require.Equal(t, 206, res.StatusCode)
		require.True(t, bytes.Equal(want[c.from:c.to+1], got), c)
		require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", c.from, c.to, len(want)), res.Header.Get("Content-Range"))
		require.Contains(t, res.Header.Get("Cache-Status"), "hit")
	}
	res, _, err = fetch(t, url+"/film", `If-None-Match: "v1"`)
	require.NoError(t, err)
	require.Equal(t, 304, res.StatusCode)
	res, _, err = fetch(t, url+"/film", "Range: bytes=99999999-")
	require.NoError(t, err)
	require.Equal(t, 416, res.StatusCode)
	require.Equal(t, before, f.requests.Load(), "nothing more was asked")

	n, err := c.Purge(t.Context(), Match{URL: url + "/film"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, c.Stats().Objects, "its slices are gone with it")
	f.set(1 << 20)
	_, got, err = fetch(t, url+"/film")
	require.NoError(t, err)
	require.True(t, bytes.Equal(*f.data.Load(), got))
	_, err = c.Purge(t.Context(), Match{Tag: "films"})
	require.NoError(t, err)
	require.Zero(t, c.Stats().Objects)
}

// A part of a large file costs the origin the slices that it lies in, and no more.
func TestOnlyWantedSlicesAreFetched(t *testing.T) {
	f := newFilm(2 << 20)
	_, url := sliced(t, f, Options{})
	_, got, err := fetch(t, url+"/film", "Range: bytes=1000000-1000099")
	require.NoError(t, err)
	require.True(t, bytes.Equal((*f.data.Load())[1000000:1000100], got))
	require.EqualValues(t, 2, f.requests.Load(), "the head, which was broken off, and one slice")
	_, ok := f.ranges.Load("bytes=983040-1048575")
	require.True(t, ok)
	var wg sync.WaitGroup // many at once fetch each slice once
	for range 20 {
		wg.Go(func() {
			res, err := http.Get(url + "/film")
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(b, *f.data.Load()) {
				t.Error("wrong content: ", err)
			}
		})
	}
	wg.Wait()
	http.DefaultClient.CloseIdleConnections()
	require.EqualValues(t, 1+32, f.requests.Load())
}

// Bytes of two versions never meet in one answer.
func TestASliceOfAnotherVersionIsRefused(t *testing.T) {
	f := newFilm(1 << 20)
	_, url := sliced(t, f, Options{})
	old := *f.data.Load()
	_, got, err := fetch(t, url+"/film", "Range: bytes=0-99")
	require.NoError(t, err)
	require.True(t, bytes.Equal(old[:100], got))
	f.set(1 << 20)
	_, got, err = fetch(t, url+"/film", "Range: bytes=0-999999")
	require.Error(t, err, "its beginning was the old version's: broken off")
	require.True(t, bytes.Equal(old[:len(got)], got))
	res, got, err := fetch(t, url+"/film")
	require.NoError(t, err)
	require.Equal(t, `"v2"`, res.Header.Get("Etag"))
	require.True(t, bytes.Equal(*f.data.Load(), got))
	f.set(1 << 20)
	res, got, err = fetch(t, url+"/other", "Range: bytes=500000-500009")
	require.NoError(t, err)
	require.Equal(t, 206, res.StatusCode)
	require.Len(t, got, 10)
	f.set(1 << 20)
	_, got, err = fetch(t, url+"/other", "Range: bytes=0-9") // not begun yet: the origin answers for itself
	require.NoError(t, err)
	require.True(t, bytes.Equal((*f.data.Load())[:10], got))
}

// Slices stand on disk and are served from there without being read into memory, also after a restart.
func TestSlicesFromDisk(t *testing.T) {
	f := newFilm(1 << 20)
	dir := t.TempDir()
	origin := httptest.NewServer(f)
	defer origin.Close()
	run := func() (*Cache, *httptest.Server) {
		c, err := New(Options{MaxBytes: 4 << 20, MaxObject: 256 << 10, SliceBytes: sliceTest,
			Disk: DiskOptions{Dir: dir, InPlace: 1 << 10}})
		require.NoError(t, err)
		h, err := c.Proxy(origin.URL, ProxyOptions{KeepHost: true})
		require.NoError(t, err)
		return c, httptest.NewServer(hostOf("films.example", h))
	}
	c, edge := run()
	for range 3 {
		_, got, err := fetch(t, edge.URL+"/film")
		require.NoError(t, err)
		require.True(t, bytes.Equal(*f.data.Load(), got))
	}
	settle(t, "written", func() bool { return c.Stats().DiskObjects >= 17 })
	edge.Close()
	require.NoError(t, c.Close())
	origin.Close()

	c, edge = run()
	for range 2 {
		res, got, err := fetch(t, edge.URL+"/film")
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
		require.True(t, bytes.Equal(*f.data.Load(), got), "with the origin gone")
	}
	require.Less(t, c.Stats().Bytes, int64(100<<10), "the bodies stay on disk")
	require.EqualValues(t, 17, c.Stats().DiskHits)
	edge.Close()
	require.NoError(t, c.Close())
}

// hostOf gives every request one Host, so that a restart on another port finds the same keys.
func hostOf(host string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = host
		h.ServeHTTP(w, r)
	})
}

func TestLargeObjectsThatCantBeSlicedPassThrough(t *testing.T) {
	for name, header := range map[string][]string{"no ranges": {"ETag: \"x\""},
		"weak": {"ETag: W/\"x\"", "Accept-Ranges: bytes"}, "none": {"ETag: \"x\"", "Accept-Ranges: none"}} {
		s := &site{h: reply(200, strings.Repeat("x", 100_000),
			append(header, "Content-Length: 100000", "Cache-Control: max-age=60")...)}
		c := newCache(t, Options{MaxBytes: 1 << 20, MaxObject: 50_000})
		h := c.Handler(s)
		for range 2 {
			require.Len(t, text(do(h, "GET", "http://a.example/x")), 100_000, name)
		}
		require.Equal(t, 2, s.count(), name)
	}
}
