package cdn

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashContent tells by its length and every byte which object and version it is of.
func crashContent(path, version string) string {
	return strings.Repeat(path+" "+version+" ", 1000+len(path)*50)
}

// fillUntilKilled is a process that fills a cache with a disk, purges, and fills anew, as fast as it can. Each purge is
// told on standard output once it has returned.
func fillUntilKilled(dir string) {
	c, err := New(Options{MaxBytes: 8 << 20, Disk: DiskOptions{Dir: dir, MaxBytes: 32 << 20, InPlace: 16 << 10}})
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	version := 0
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		v := fmt.Sprintf("v%06d", version)
		mu.Unlock()
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("X-Version", v)
		w.Header().Set("Surrogate-Key", "all")
		fmt.Fprint(w, crashContent(r.URL.Path, v))
	}))
	for {
		fill := func() {
			for i := range 40 {
				h.ServeHTTP(&discard{h: http.Header{}},
					httptest.NewRequest("GET", fmt.Sprint("http://a.example/", i*i), nil))
			}
			time.Sleep(time.Millisecond) // the writer comes along
		}
		for c.Stats().DiskObjects < 20 {
			fill()
		}
		fmt.Println("filled")
		for range 20 {
			fill()
		}
		mu.Lock()
		version++
		v := version
		mu.Unlock()
		if _, err := c.Purge(context.Background(), Match{Tag: "all"}); err != nil {
			panic(err)
		}
		fmt.Println(v)
	}
}

// A process is killed while it fills and purges, again and again. What it finds on disk afterwards is whole, and
// nothing that a purge had removed.
func TestKilledWhileItFills(t *testing.T) {
	dir := t.TempDir()
	served := 0
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CDN_CRASH_DIR="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		stuck := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		last, filled := 0, 0
		lines := bufio.NewScanner(out)
		for filled <= round && lines.Scan() {
			if lines.Text() == "filled" {
				filled++
			} else {
				fmt.Sscan(lines.Text(), &last)
			}
		}
		require.True(t, stuck.Stop(), "the process does not fill its cache")
		time.Sleep(time.Duration(rand.IntN(15+round%2*60)) * time.Millisecond) // any moment will do
		require.NoError(t, cmd.Process.Kill())
		for lines.Scan() { // what it told until it died
			fmt.Sscan(lines.Text(), &last)
		}
		cmd.Wait()
		c, err := New(Options{MaxBytes: 8 << 20, Disk: DiskOptions{Dir: dir, MaxBytes: 32 << 20, InPlace: 16 << 10}})
		require.NoError(t, err)
		h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
		}))
		for i := range 40 {
			path := fmt.Sprint("/", i*i)
			res := do(h, "GET", "http://a.example"+path)
			v := res.Header.Get("X-Version")
			if v == "" {
				continue // a miss
			}
			served++
			if got := text(res); got != crashContent(path, v) {
				t.Fatalf("%s of %s: %d bytes that never were", path, v, len(got))
			}
			n := 0
			fmt.Sscanf(v, "v%d", &n)
			require.GreaterOrEqual(t, n, last, "purged before the process died")
		}
		_, err = c.Purge(t.Context(), Match{All: true}) // the versions begin anew
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	t.Logf("%d objects were served after a crash", served)
	require.NotZero(t, served)
}
