package player

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
	"github.com/tierkit/tierkit/metrics"
)

// Result is what the clients saw.
type Result struct {
	network              *client.Network
	start                time.Time
	took                 time.Duration
	clients, writers     int
	unlocated            int
	lag, resized, writes metrics.Histogram
	requests             atomic.Int64
	staleReads           atomic.Int64
	bytes                atomic.Int64

	mu      sync.Mutex // guards what follows
	errors  []Failure
	late    []Late
	kinds   map[string]int
	status  map[int]int
	centers map[string]int
	region  map[string]*metrics.Histogram // by region of the client
	direct  map[string]*metrics.Histogram
}

// Failure is a request that a client did not get a proper answer to.
type Failure struct {
	At    time.Time
	Cause string // "transport", "5xx", "unexpected status", "dns"
	Kind  string
	What  string
}

// Late is a write that took longer than a second, repetitions included.
type Late struct {
	From time.Time
	Took time.Duration
	Kind string
}

func newResult(n *client.Network) *Result {
	return &Result{network: n, kinds: map[string]int{}, status: map[int]int{}, centers: map[string]int{},
		region: map[string]*metrics.Histogram{}, direct: map[string]*metrics.Histogram{}}
}

func regionName(r string) string {
	if r == "" {
		return "unknown"
	}
	return r
}

func (r *Result) directs(region string) *metrics.Histogram {
	return histogram(&r.mu, r.direct, regionName(region))
}

func histogram(mu *sync.Mutex, m map[string]*metrics.Histogram, name string) *metrics.Histogram {
	mu.Lock()
	defer mu.Unlock()
	if m[name] == nil {
		m[name] = &metrics.Histogram{}
	}
	return m[name]
}

// count notes one finished request.
func (r *Result) count(c *reader, a client.Request, rep client.Response, err error, ok bool) {
	r.requests.Add(1)
	r.bytes.Add(rep.Size)
	switch {
	case err != nil:
		r.fail(c, a, time.Now(), err)
	case !ok && rep.Status >= 500:
		r.fail(c, a, time.Now(), fmt.Errorf("status %d from %s: %.80q", rep.Status, rep.Center, rep.Body))
	case !ok:
		r.fail(c, a, time.Now(), fmt.Errorf("%w: status %d", errUnexpected, rep.Status))
	}
	if a.Key != "" {
		r.writes.Observe(rep.Took)
	}
	histogram(&r.mu, r.region, regionName(c.Region)).Observe(rep.Took)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[a.Kind]++
	r.status[rep.Status]++
	if rep.Center != "" {
		r.centers[rep.Center]++
	}
	if a.Key != "" && rep.Took > time.Second {
		r.late = append(r.late, Late{rep.First, rep.Took, a.Kind})
	}
}

func (r *Result) fail(c *reader, a client.Request, at time.Time, err error) {
	cause := "transport"
	var ne net.Error
	switch {
	case errors.Is(err, errUnexpected):
		cause = "unexpected status"
	case strings.HasPrefix(err.Error(), "status 5"), strings.HasPrefix(err.Error(), "still "):
		cause = "5xx"
	case strings.HasPrefix(err.Error(), "dns"):
		cause = "dns"
	case errors.As(err, &ne) && ne.Timeout():
		cause = "timeout"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, Failure{At: at, Cause: cause, Kind: a.Kind, What: a.Method + " " + a.Path + ": " +
		err.Error()})
}

// Summary is a Result as plain data.
type Summary struct {
	Start            time.Time
	Took             time.Duration
	Requests         int64
	Clients, Writers int
	Unlocated        int // clients at an unknown place
	Repeats          int64
	DNSRetries       int64
	StaleReads       int64 // a deleted post was shown
	Bytes            int64
	Errors           []Failure
	Late             []Late
	Kinds            map[string]int
	Status           map[int]int
	Centers          map[string]int
	Regions, Direct  map[string]metrics.HistogramSnapshot
	SendLag          metrics.HistogramSnapshot
	Writes, Resized  metrics.HistogramSnapshot
}

// Summary copies the result; it may be called while the player runs.
func (r *Result) Summary() Summary {
	s := Summary{Start: r.start, Took: r.took, Requests: r.requests.Load(), Clients: r.clients, Writers: r.writers,
		Unlocated: r.unlocated,
		Repeats:   r.network.Repeats(), DNSRetries: r.network.DNSRetries(), StaleReads: r.staleReads.Load(),
		Bytes:   r.bytes.Load(),
		SendLag: r.lag.Snapshot(), Writes: r.writes.Snapshot(), Resized: r.resized.Snapshot(),
		Regions: map[string]metrics.HistogramSnapshot{}, Direct: map[string]metrics.HistogramSnapshot{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Errors, s.Late = slices.Clone(r.errors), slices.Clone(r.late)
	s.Kinds, s.Status, s.Centers = maps.Clone(r.kinds), maps.Clone(r.status), maps.Clone(r.centers)
	for k, h := range r.region {
		s.Regions[k] = h.Snapshot()
	}
	for k, h := range r.direct {
		s.Direct[k] = h.Snapshot()
	}
	return s
}

// Live returns what has come in so far, for the dashboard.
func (p *Player) Live() Summary { return p.result.Summary() }
