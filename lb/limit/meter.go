package limit

import (
	"encoding/json"
	"math"
	"math/bits"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// Load is how busy a server is, with the requests of all clients.
type Load struct {
	InFlight int           `json:"in_flight"`  // requests that it works on
	Latency  time.Duration `json:"latency_ns"` // what one more may be expected to take; 0: not known
}

// LoadMeter measures the [Load] of a server. It runs in the backend: wrap the service with Handler, and serve the meter
// itself at the path that the balancers ask. The zero value is ready. It is safe for concurrent use and takes no lock.
type LoadMeter struct {
	inFlight atomic.Int64
	levels   [64]level // by requests in flight at arrival, on which latency depends
}

// level is the mean latency of requests that found about as many others, the later ones counting more.
type level struct {
	seconds atomic.Uint64 // bits of a float64; 0: none
	at      atomic.Int64  // time of the last request
}

// levelMemory is how long a latency is remembered.
const levelMemory = 10 * time.Second

var began = time.Now()

func since() time.Duration { return time.Since(began) }

// levelOf returns the level for n requests in flight: exact below 8, then four levels to a power of two.
func levelOf(n int64) int {
	if n < 8 {
		return int(max(n, 0))
	}
	shift := bits.Len64(uint64(n)) - 3
	return min(4*shift+int(n>>shift), 63)
}

// Running is a request that is being measured.
type Running struct {
	m     *LoadMeter
	level int
	start time.Duration
}

// Begin counts a request. End must be called once on the result.
func (m *LoadMeter) Begin() Running {
	return Running{m, levelOf(m.inFlight.Add(1) - 1), since()}
}

// End ends the request. The latency of a failed one is not used: failing is quick.
func (r Running) End(failed bool) {
	r.m.inFlight.Add(-1)
	if failed {
		return
	}
	now := since()
	l, took := &r.m.levels[r.level], (now - r.start).Seconds()
	for {
		old := l.seconds.Load()
		v := math.Float64frombits(old)
		if old == 0 || now-time.Duration(l.at.Load()) > levelMemory {
			v = took
		} else {
			v += (took - v) / 8
		}
		if l.seconds.CompareAndSwap(old, math.Float64bits(max(v, 1e-9))) {
			break
		}
	}
	l.at.Store(int64(now))
}

// Load returns the load now. Its latency is that of the nearest number of requests in flight that was seen lately.
func (m *LoadMeter) Load() Load {
	n := m.inFlight.Load()
	out := Load{InFlight: int(max(n, 0))}
	now, at := since(), levelOf(n)
	for d := range len(m.levels) {
		for _, i := range [2]int{at - d, at + d} {
			if i < 0 || i >= len(m.levels) {
				continue
			}
			l := &m.levels[i]
			if v := l.seconds.Load(); v != 0 && now-time.Duration(l.at.Load()) <= levelMemory {
				out.Latency = time.Duration(math.Float64frombits(v) * float64(time.Second))
				return out
			}
		}
	}
	return out
}

// Handler measures the requests of next. The latency of answers with a status of 500 or more is not used.
func (m *LoadMeter) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		run, failed := m.Begin(), true
		defer func() { run.End(failed) }()
		rw := httpwrap.Wrap(w)
		next.ServeHTTP(rw, r)
		failed = rw.Status >= 500
	})
}

// ServeHTTP reports the load as JSON. It tells strangers how busy the server is: serve it on an address that only the
// balancers reach.
func (m *LoadMeter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(m.Load())
}
