package cdn

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/race"
)

// The budget means bytes of memory: the live heap stays within a tenth of it under many distinct URLs, small and large.
func TestBudgetIsTheHeap(t *testing.T) {
	if race.Enabled {
		return // the detector's shadow memory counts
	}
	const budget = 16 << 20
	for _, size := range []int{0, 100, 1000, 20_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			body := strings.Repeat("x", size)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			c := newCache(t, Options{MaxBytes: budget})
			h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=3600")
				w.Header().Set("Content-Type", "text/plain")
				w.Write([]byte(body))
			}))
			w := &discard{}
			for i := range 2 * budget / (size + 2000) {
				w.h = http.Header{}
				h.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint("http://a.example/some/path/", i), nil))
			}
			for c.Stats().InFlight > 0 {
				runtime.Gosched()
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			heap := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			st := c.Stats()
			t.Logf("%d objects, %.1f MB by our count, %.1f MB of heap, %.0f bytes of overhead each", st.Objects,
				float64(st.Bytes)/1e6, float64(heap)/1e6, float64(heap)/float64(st.Objects)-float64(size))
			require.LessOrEqual(t, heap, int64(budget*11/10))
			require.GreaterOrEqual(t, heap, int64(budget*8/10), "and it is used")
			runtime.KeepAlive(c)
		})
	}
}

// A hit without the connection.
func BenchmarkHit(b *testing.B) {
	c := newCache(b, Options{})
	h := c.Handler(reply(200, strings.Repeat("x", 1024), "Cache-Control: max-age=3600", "Content-Type: text/plain",
		`ETag: "1"`))
	r := httptest.NewRequest("GET", "http://a.example/some/path", nil)
	w := &discard{h: http.Header{}}
	h.ServeHTTP(w, r)
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}
