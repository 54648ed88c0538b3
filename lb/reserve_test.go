package lb

import (
	"fmt"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc")
	}
	var size, pages int64
	_, err = fmt.Sscan(string(b), &size, &pages)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

// released waits until the process holds no reserve.
func released(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { runtime.GC(); return reserveHeld() == 0 }, waitFor, pause)
}

func heapReserved(t *testing.T, n int) *Balancer {
	b := newBalancer(t, endpoints(1), Options{})
	handlerOf(t, b, ProxyOptions{HeapReserve: n})
	return b
}

func TestHeapReserveIsShared(t *testing.T) {
	released(t)
	small, large, none := heapReserved(t, 5<<20), heapReserved(t, 24<<20), heapReserved(t, -1)
	require.Equal(t, int64(24<<20), reserveHeld(), "the largest, not the sum")
	require.Nil(t, none.reserve)
	handlerOf(t, large)
	require.Equal(t, int64(24<<20), reserveHeld(), "once for each balancer")
	require.NoError(t, large.Close())
	require.Eventually(t, func() bool {
		runtime.GC()
		return reserveHeld() == 8<<20
	}, waitFor, pause, "what the smaller one needs stays")
	handlerOf(t, large)
	require.Nil(t, large.reserve, "none after Close")
	require.NoError(t, small.Close())
	released(t)
	again := heapReserved(t, 0)
	require.Equal(t, int64(defaultReserve), reserveHeld())
	require.NoError(t, again.Close())
}

func TestHeapReserveOfAnUnreachableBalancer(t *testing.T) {
	released(t)
	func() {
		b, err := New(endpoints(1), Options{})
		require.NoError(t, err)
		handlerOf(t, b)
		require.NotZero(t, reserveHeld())
	}()
	released(t)
}

func TestHeapReserveBelowAMemoryLimit(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(8*defaultReserve - 1))
	require.Nil(t, heapReserved(t, 0).reserve)
	require.NotNil(t, heapReserved(t, defaultReserve-1).reserve)
	debug.SetMemoryLimit(8 * defaultReserve)
	require.NotNil(t, heapReserved(t, 0).reserve)
}

// The collector counts the reserve, and no page of it is resident: not when it is new, nor when it takes the place of
// garbage.
func TestHeapReserveIsNotResident(t *testing.T) {
	released(t)
	debug.FreeOSMemory()
	for range 3 {
		const n = 512 << 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		at := resident(t)
		b := heapReserved(t, n)
		runtime.ReadMemStats(&after)
		require.GreaterOrEqual(t, after.HeapAlloc-before.HeapAlloc+16<<20, uint64(n))
		require.Less(t, resident(t)-at, int64(n/8))
		runtime.GC()
		require.Less(t, resident(t)-at, int64(n/8), "nor does the collector touch it")
		require.NoError(t, b.Close())
		released(t)
	}
}

// It does what it is for: the collector runs seldom.
func TestHeapReserveMakesCollectionsRare(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	released(t)
	e := Endpoint{Addr: "127.0.0.1:1"} // every request fails, and makes garbage
	runs := func(n int) uint32 {
		b := newBalancer(t, []Endpoint{e}, Options{Dial: unreachable})
		defer b.Close()
		h := handlerOf(t, b, ProxyOptions{HeapReserve: n})
		runtime.GC()
		var m0, m1, m runtime.MemStats
		runtime.ReadMemStats(&m0)
		r := httptest.NewRequest("GET", "/", nil)
		for {
			for range 1000 {
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
			if runtime.ReadMemStats(&m); m.TotalAlloc-m0.TotalAlloc > 60<<20 {
				break
			}
		}
		runtime.ReadMemStats(&m1)
		return m1.NumGC - m0.NumGC
	}
	bare := runs(-1)
	require.Less(t, runs(128<<20), max(bare/2, 2), "%d without", bare)
}
