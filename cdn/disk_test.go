package cdn

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func settle(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

// shelf is a cache with a disk that holds n objects, each of its own content.
func shelf(t *testing.T, dir string, o Options) (*Cache, *site, func(int) string) {
	t.Helper()
	o.Disk.Dir = dir
	c, err := New(o)
	require.NoError(t, err)
	s := &site{}
	s.h = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Surrogate-Key", "odd"+r.URL.Path[len(r.URL.Path)-1:])
		w.Header().Set("ETag", `"`+r.URL.Path+`"`)
		fmt.Fprint(w, content(r.URL.Path))
	}
	h := c.Handler(s)
	return c, s, func(i int) string { return text(do(h, "GET", fmt.Sprint("http://a.example/", i))) }
}

func content(path string) string { return strings.Repeat(path+" ", 2000) }

func TestDiskSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	c, s, get := shelf(t, dir, Options{})
	for i := range 20 {
		get(i)
	}
	require.Zero(t, c.Stats().DiskObjects, "asked for once: not worth a write")
	for i := range 20 {
		get(i)
	}
	settle(t, "written", func() bool { return c.Stats().DiskObjects == 20 })
	_, err := New(Options{Disk: DiskOptions{Dir: dir}})
	require.ErrorContains(t, err, "in use")
	require.NoError(t, c.Close())
	require.Equal(t, 20, s.count())

	c, s, get = shelf(t, dir, Options{})
	for i := range 20 {
		require.Equal(t, content(fmt.Sprint("/", i)), get(i))
	}
	require.Zero(t, s.count(), "nothing was fetched")
	require.EqualValues(t, 20, c.Stats().DiskHits)
	n, err := c.Purge(t.Context(), Match{URL: "http://a.example/3"})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = c.Purge(t.Context(), Match{Tag: "odd5"})
	require.NoError(t, err)
	require.Equal(t, 2, n, "5 and 15")
	require.NoError(t, c.Close())

	c, s, get = shelf(t, dir, Options{})
	n, err = c.Purge(t.Context(), Match{Prefix: "http://a.example/1"})
	require.NoError(t, err)
	require.Equal(t, 10, n, "1, 10 to 19 but for 15, never loaded")
	for i := range 20 {
		get(i)
	}
	require.Equal(t, 13, s.count(), "what was purged, before the restart too")
	_, err = c.Purge(t.Context(), Match{All: true})
	require.NoError(t, err)
	require.Zero(t, c.Stats().DiskObjects)
	require.NoError(t, c.Close())
	left, _ := filepath.Glob(filepath.Join(dir, "segment-*"))
	require.Empty(t, left)
}

func TestEvictedFromMemoryServedFromDisk(t *testing.T) {
	c, s, get := shelf(t, t.TempDir(), Options{MaxBytes: 256 << 10})
	defer c.Close()
	for i := range 100 {
		settle(t, "written", func() bool { // a full memory may drop a newcomer before it is asked for again
			get(i)
			return c.Stats().DiskObjects == i+1
		})
	}
	fetched := s.count()
	require.Less(t, c.Stats().Objects, 40)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				if got := get(i); got != content(fmt.Sprint("/", i)) {
					t.Errorf("%d: %d bytes", i, len(got))
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, fetched, s.count())
}

func TestDiskBudget(t *testing.T) {
	c, _, get := shelf(t, t.TempDir(), Options{MaxBytes: 4 << 20, Disk: DiskOptions{MaxBytes: 3 << 20}})
	defer c.Close()
	for i := range 1000 {
		get(i)
		get(i)
	}
	settle(t, "idle", func() bool { return len(c.disk.writes) == 0 })
	st := c.Stats()
	require.LessOrEqual(t, st.DiskBytes, int64(3<<20))
	require.Greater(t, st.DiskBytes, int64(1<<20))
	files, _ := filepath.Glob(filepath.Join(c.o.Disk.Dir, "segment-*"))
	total := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		require.NoError(t, err)
		total += info.Size()
	}
	require.LessOrEqual(t, total, int64(4<<20))
}

// Whatever happens to the bytes on disk, an object is served whole and right or not at all.
func TestDamageIsAMiss(t *testing.T) {
	for round := range 30 {
		dir := t.TempDir()
		c, _, get := shelf(t, dir, Options{})
		for i := range 10 {
			get(i)
			get(i)
		}
		settle(t, "written", func() bool { return c.Stats().DiskObjects == 10 || get(rand.IntN(10)) == "" })
		require.NoError(t, c.Close())
		files, _ := filepath.Glob(filepath.Join(dir, "segment-*"))
		b, err := os.ReadFile(files[0])
		require.NoError(t, err)
		if round%3 == 0 {
			b = b[:rand.IntN(len(b))] // killed while it wrote
		} else {
			for range round {
				b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
			}
		}
		require.NoError(t, os.WriteFile(files[0], b, 0o600))
		c, _, get = shelf(t, dir, Options{})
		for pass := range 2 {
			for i := range 10 {
				require.Equal(t, content(fmt.Sprint("/", i)), get(i), "round %d, pass %d", round, pass)
			}
		}
		require.NoError(t, c.Close())
	}
}

// A soft purge outlives a restart: what was marked stale is asked about, not served as if nothing had happened.
func TestSoftPurgeOutlivesRestart(t *testing.T) {
	for name, m := range map[string]Match{"url": {URL: "http://a.example/1"}, "prefix": {Prefix: "http://a.example/1"},
		"tag": {Tag: "odd1"}, "all": {All: true}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, _, get := shelf(t, dir, Options{})
			for range 2 {
				for i := range 3 {
					get(i)
				}
			}
			settle(t, "written", func() bool { return c.Stats().DiskObjects == 3 })
			m.Soft = true
			n, err := c.Purge(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, map[bool]int{true: 3, false: 1}[m.All], n)
			require.NoError(t, c.Close())

			c, s, get := shelf(t, dir, Options{})
			defer c.Close()
			require.Equal(t, content("/1"), get(1))
			require.Equal(t, 1, s.count(), "asked again")
			require.Equal(t, content("/1"), get(1))
			require.Equal(t, 1, s.count(), "and fresh from then on")
			get(2)
			require.Equal(t, map[bool]int{true: 2, false: 1}[m.All], s.count())
		})
	}
}
