package cdn

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Clients that come, read a part and leave, objects in memory, on disk and in slices, an origin that breaks off:
// afterwards goroutines and open files are as many as before.
func TestNothingIsLeftOpen(t *testing.T) {
	files := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0 // not on this system
		}
		return len(entries)
	}
	f := newFilm(300_000)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.Header().Set("Content-Length", "100000")
			w.Header().Set("Cache-Control", "max-age=60")
			w.Write(make([]byte, 60_000))
			panic(http.ErrAbortHandler)
		}
		f.ServeHTTP(w, r)
	}))
	defer origin.Close()
	c, err := New(Options{MaxBytes: 4 << 20, MaxObject: 200_000, SliceBytes: 64 << 10,
		Disk: DiskOptions{Dir: t.TempDir(), InPlace: 16 << 10}})
	require.NoError(t, err)
	h, err := c.Proxy(origin.URL, ProxyOptions{})
	require.NoError(t, err)
	edge := httptest.NewServer(h)
	round := func() {
		tr := &http.Transport{}
		client := &http.Client{Transport: tr}
		for i := range 60 {
			path := []string{"/film", "/broken", "/other"}[i%3]
			r, err := http.NewRequest("GET", edge.URL+path, nil)
			require.NoError(t, err)
			if i%4 == 0 {
				r.Header.Set("Range", "bytes=70000-200000")
			}
			res, err := client.Do(r)
			if path == "/broken" && err != nil {
				continue // broken off before the header went out
			}
			require.NoError(t, err)
			if i%2 == 0 {
				io.Copy(io.Discard, io.LimitReader(res.Body, rand.Int64N(100_000))) // and leaves
			} else if b, err := io.ReadAll(res.Body); path != "/broken" && r.Header.Get("Range") == "" {
				require.NoError(t, err)
				require.True(t, bytes.Equal(*f.data.Load(), b))
			}
			res.Body.Close()
		}
		tr.CloseIdleConnections()
	}
	round() // what is made once
	settle(t, "quiet", func() bool { return c.Stats().InFlight == 0 })
	goroutines, open := runtime.NumGoroutine(), files()
	for range 5 {
		round()
	}
	settle(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	// a segment keeps up to 16 for its readers
	settle(t, "files are closed", func() bool { return files() <= open+5+16 })
	edge.Close()
	require.NoError(t, c.Close())
	settle(t, "all files are closed", func() bool { return files() <= open })
}
