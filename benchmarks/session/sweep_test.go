package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tierkit/tierkit/session"
)

// BenchmarkSweep is the longest that a request waits while half a million sessions expire, beside the same requests when none expires (limit): what both
// have is the machine's, the scheduler's and the collector's; what only the first has is the sweep's. Two requests at a time, each paced as on a server that is
// not overloaded; "unpaced" ones keep both processors busy all the time, so that they measure how long the scheduler lets a goroutine wait.
func BenchmarkSweep(b *testing.B) {
	for _, c := range []struct {
		name   string
		expire bool
		pace   int
	}{{"tierkit", true, 64}, {"limit", false, 64}, {"tierkit-unpaced", true, 0}, {"limit-unpaced", false, 0}} {
		b.Run(c.name, func(b *testing.B) {
			var worst, p9999 time.Duration
			over := 0
			for range b.N {
				w, p, o := sweep(c.expire, c.pace)
				worst, p9999, over = max(worst, w), max(p9999, p), over+o
			}
			b.ReportMetric(float64(worst.Microseconds()), "worst-us")
			b.ReportMetric(float64(p9999.Microseconds()), "p99.99-us")
			b.ReportMetric(float64(over)/float64(b.N), "over-1ms")
		})
	}
}

func sweep(expire bool, pace int) (worst, p9999 time.Duration, over int) {
	m := session.NewMemory()
	at := time.Now()
	key := func(n, g int) session.Key {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		b[15] = byte(g)
		return sha256.Sum256(b[:])
	}
	for i := range 500_000 {
		_ = m.Create(context.Background(), key(i, 9), session.Record{Created: at, Seen: at, Expires: at.Add(time.Minute), Data: make([]byte, 100)})
	}
	debug.FreeOSMemory() // the collection that filling the store is due for is not the requests' affair
	later := at
	if expire {
		later = at.Add(time.Hour)
	}
	const each = 75_000
	took := make([][]time.Duration, 2)
	var wg sync.WaitGroup
	for g := range took {
		took[g] = make([]time.Duration, 0, each)
		wg.Go(func() {
			for i := range each {
				k := key(i, g)
				start := time.Now()
				_ = m.Create(context.Background(), k, session.Record{Created: later, Seen: later, Expires: later.Add(time.Minute), Data: make([]byte, 100)})
				took[g] = append(took[g], time.Since(start))
				if pace > 0 && i%pace == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	for _, d := range all {
		if d > time.Millisecond {
			over++
		}
	}
	return all[len(all)-1], all[len(all)-len(all)/10_000], over
}
