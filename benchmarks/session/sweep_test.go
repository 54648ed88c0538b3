package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tierkit/tierkit/session"
)

// BenchmarkSweep is the longest that a request waits while half a million sessions expire, beside the same requests
// when none expires (limit): what both have is the machine's and the collector's. Of the waits above 1 ms it tells the
// cause, which the kernel counts per thread: "preempted" ones lost their processor to another process in the middle,
// "waited" ones gave it up themselves, for a lock or the collector; "ran" ones are the store's own work. Two requests
// at a time; "unpaced" ones keep both processors busy all the time.
func BenchmarkSweep(b *testing.B) {
	for _, c := range []struct {
		name   string
		expire bool
		pace   int
	}{{"tierkit", true, 64}, {"limit", false, 64}, {"tierkit-unpaced", true, 0}, {"limit-unpaced", false, 0}} {
		b.Run(c.name, func(b *testing.B) {
			var all stalls
			for range b.N {
				all.add(sweep(c.expire, c.pace))
			}
			n := float64(b.N)
			b.ReportMetric(float64(all.worst.Microseconds()), "worst-us")
			b.ReportMetric(float64(all.worstRan.Microseconds()), "worst-ran-us")
			b.ReportMetric(float64(all.median.Nanoseconds()), "median-ns")
			b.ReportMetric(float64(all.preempted)/n, "preempted")
			b.ReportMetric(float64(all.waited)/n, "waited")
			b.ReportMetric(float64(all.ran)/n, "ran")
		})
	}
}

// stalls are the waits above 1 ms, by cause; worstRan is the longest request that kept its processor all the time,
// median any request's.
type stalls struct {
	worst, worstRan, median time.Duration
	preempted, waited, ran  int
}

func (s *stalls) add(o stalls) {
	s.worst, s.worstRan, s.median = max(s.worst, o.worst), max(s.worstRan, o.worstRan), o.median
	s.preempted, s.waited, s.ran = s.preempted+o.preempted, s.waited+o.waited, s.ran+o.ran
}

// switches of the thread: those that it asked for, and those that it suffered.
func switches() (voluntary, forced int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(1, &u) // RUSAGE_THREAD
	return u.Nvcsw, u.Nivcsw
}

func sweep(expire bool, pace int) (total stalls) {
	m := session.NewMemory()
	at := time.Now()
	key := func(n, g int) session.Key {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		b[15] = byte(g)
		return sha256.Sum256(b[:])
	}
	for i := range 500_000 {
		_ = m.Create(context.Background(), key(i, 9),
			session.Record{Created: at, Seen: at, Expires: at.Add(time.Minute), Data: make([]byte, 100)})
	}
	debug.FreeOSMemory() // the collection that filling the store is due for is not the requests' affair
	later := at
	if expire {
		later = at.Add(time.Hour)
	}
	const each = 75_000
	var mu sync.Mutex
	var wg sync.WaitGroup
	var took []time.Duration
	for g := range 2 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var own stalls
			times := make([]time.Duration, 0, each)
			for i := range each {
				k := key(i, g)
				v, f := switches()
				start := time.Now()
				_ = m.Create(context.Background(), k,
					session.Record{Created: later, Seen: later, Expires: later.Add(time.Minute),
						Data: make([]byte, 100)})
				d := time.Since(start)
				v2, f2 := switches()
				times = append(times, d)
				own.worst = max(own.worst, d)
				if v == v2 && f == f2 {
					own.worstRan = max(own.worstRan, d)
				}
				if d > time.Millisecond {
					switch {
					case f2 > f:
						own.preempted++
					case v2 > v:
						own.waited++
					default:
						own.ran++
					}
				}
				if pace > 0 && i%pace == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(own)
			took = append(took, times...)
		})
	}
	wg.Wait()
	slices.Sort(took)
	total.median = took[len(took)/2]
	return total
}
