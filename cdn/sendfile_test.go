package cdn

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// onDisk is a cache whose objects of 300 KB stand on disk and are served from there.
func onDisk(t *testing.T, o Options) (c *Cache, url string, f *film) {
	t.Helper()
	f = newFilm(300_000)
	o.MaxBytes, o.Disk.Dir = 4<<20, t.TempDir()
	c = newCache(t, o)
	srv := httptest.NewServer(hostOf("a.example", c.Handler(f)))
	t.Cleanup(srv.Close)
	for range 2 {
		_, got, err := fetch(t, srv.URL+"/x")
		require.NoError(t, err)
		require.True(t, bytes.Equal(*f.data.Load(), got))
	}
	settle(t, "written", func() bool { return c.Stats().DiskObjects == 1 })
	forgetMemory(t, c, "http://a.example/x")
	return c, srv.URL, f
}

// forgetMemory evicts an object.
func forgetMemory(t *testing.T, c *Cache, key string) {
	t.Helper()
	settle(t, "kept", func() bool { return c.Stats().InFlight == 0 })
	for _, o := range c.index.find(c.hashString(key), []byte(key)).all() {
		c.remove(o)
	}
}

func TestServedFromDiskInPlace(t *testing.T) {
	c, url, f := onDisk(t, Options{})
	asked := f.requests.Load()
	want := *f.data.Load()
	for range 3 {
		_, got, err := fetch(t, url+"/x")
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		res, got, err := fetch(t, url+"/x", "Range: bytes=1000-200000")
		require.NoError(t, err)
		require.Equal(t, 206, res.StatusCode)
		require.True(t, bytes.Equal(want[1000:200001], got))
	}
	var wg sync.WaitGroup
	for range 40 { // each with an offset of its own
		wg.Go(func() {
			if _, got, err := fetch(t, url+"/x"); err != nil || !bytes.Equal(want, got) {
				t.Error("wrong content: ", err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, asked, f.requests.Load())
	require.EqualValues(t, 1, c.Stats().DiskHits, "found on disk once, served from there since")
	require.Less(t, c.Stats().Bytes, int64(10_000), "not read into memory")
}

// A 304 gives the object on disk a new life, and a record of its own.
func TestRevalidatedOnDisk(t *testing.T) {
	c, url, f := onDisk(t, Options{})
	_, got, err := fetch(t, url+"/x", "Cache-Control: no-cache")
	require.NoError(t, err)
	require.True(t, bytes.Equal(*f.data.Load(), got))
	require.EqualValues(t, 1, c.Stats().Revalidated)
	for range 2 {
		_, got, err = fetch(t, url+"/x")
		require.NoError(t, err)
		require.True(t, bytes.Equal(*f.data.Load(), got))
	}
	settle(t, "written anew", func() bool { return c.Stats().DiskObjects == 1 })
	forgetMemory(t, c, "http://a.example/x")
	asked := f.requests.Load()
	_, got, err = fetch(t, url+"/x")
	require.NoError(t, err)
	require.True(t, bytes.Equal(*f.data.Load(), got))
	require.Equal(t, asked, f.requests.Load())
}

// A bit that flips while the object is being served from disk is seen at the next check, and costs a fetch, not a wrong
// byte.
func TestDamageOnDiskInPlaceIsAMiss(t *testing.T) {
	c, url, f := onDisk(t, Options{})
	_, _, err := fetch(t, url+"/x")
	require.NoError(t, err)
	names, err := filepath.Glob(filepath.Join(c.o.Disk.Dir, "segment-*"))
	require.NoError(t, err)
	file, err := os.OpenFile(names[0], os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	var b [1]byte
	_, err = file.ReadAt(b[:], 100_000)
	require.NoError(t, err)
	b[0] ^= 4
	_, err = file.WriteAt(b[:], 100_000)
	require.NoError(t, err)
	for _, o := range c.index.find(c.hashString("http://a.example/x"), []byte("http://a.example/x")).all() {
		o.body.file.checked.Store(time.Now().Add(-2 * recheck).UnixNano()) // a while later
	}
	asked := f.requests.Load()
	_, got, err := fetch(t, url+"/x")
	require.NoError(t, err)
	require.True(t, bytes.Equal(*f.data.Load(), got))
	require.Equal(t, asked+1, f.requests.Load())
}

// The segment that an object stands in is dropped for the budget's sake: a miss.
func TestServedFromASegmentThatGoes(t *testing.T) {
	c, url, f := onDisk(t, Options{})
	_, _, err := fetch(t, url+"/x")
	require.NoError(t, err)
	c.disk.mu.Lock()
	old := c.disk.segments[0]
	c.disk.segments = c.disk.segments[1:]
	c.disk.abandon(old)
	c.disk.mu.Unlock()
	asked := f.requests.Load()
	_, got, err := fetch(t, url+"/x")
	require.NoError(t, err)
	require.True(t, bytes.Equal(*f.data.Load(), got))
	require.Equal(t, asked+1, f.requests.Load())
}
