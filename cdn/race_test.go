package cdn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// While clients ask, fills run, objects are evicted and come back from disk, pages change and are purged: a request
// that starts after a purge has returned never sees what was before it.
func TestNoRequestSeesWhatWasPurged(t *testing.T) {
	const pages = 20
	var version [pages]atomic.Int64 // what the origin has
	var floor [pages]atomic.Int64   // what every new request must at least see
	c := newCache(t, Options{MaxBytes: 200 << 10, Disk: DiskOptions{Dir: t.TempDir(), MaxBytes: 2 << 20, NoSync: true}})
	padding := bytes.Repeat([]byte("."), 15_000)
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, _ := strconv.Atoi(r.URL.Path[1:])
		v := version[i].Load()
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		}
		w.Header().Set("Cache-Control", []string{"max-age=60", "max-age=0",
			"max-age=0, stale-while-revalidate=60"}[rand.IntN(3)])
		w.Header().Set("Surrogate-Key", fmt.Sprint("page-", i))
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, v))
		if r.Header.Get("If-None-Match") == fmt.Sprintf(`"%d"`, v) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, "%d ", v)
		w.Write(padding)
	}))
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rand.IntN(pages)
				least := floor[i].Load()
				res := do(h, "GET", fmt.Sprint("http://a.example/", i))
				var got int64
				if _, err := fmt.Sscanf(text(res), "%d ", &got); err != nil || got < least {
					t.Errorf("page %d: version %d (%v), at least %d was to be seen; %s", i, got, err, least,
						res.Header.Get("Cache-Status"))
					return
				}
			}
		})
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		i := rand.IntN(pages)
		v := version[i].Add(1)
		m := []Match{{URL: fmt.Sprint("http://a.example/", i)}, {Tag: fmt.Sprint("page-", i)},
			{Prefix: fmt.Sprint("http://a.example/", i)}, {All: true}}[min(rand.IntN(100)/33, 3)]
		time.Sleep(time.Millisecond)
		_, err := c.Purge(t.Context(), m)
		require.NoError(t, err)
		floor[i].Store(v)
	}
	close(stop)
	wg.Wait()
	st := c.Stats()
	t.Logf("%+v", st)
	require.NotZero(t, st.Hits)
	require.NotZero(t, st.DiskHits)
	require.NotZero(t, st.Evictions)
}
