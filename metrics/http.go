package metrics

import (
	"fmt"
	"math/bits"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// HTTPOptions configure one wrapper. The zero value is ready.
type HTTPOptions struct {
	// Server labels the series, so that several servers of one process can be told apart; no two may have the same.
	// Empty means "http".
	Server string
	// MaxRoutes caps the number of route patterns; requests of further ones are counted under "other". Zero means 256.
	// Patterns come from the program's own ServeMux, so the cap only guards against muxes that are built from data.
	MaxRoutes int
	// Mux is asked for the pattern of a request that carries none when it ends: a middleware between Wrap and the mux
	// that replaces the request (Request.WithContext) hides the pattern. Asking costs about a microsecond. Nil counts
	// such requests as "unmatched".
	Mux *http.ServeMux
	// Route names the route of a request that carries no pattern, for routers other than ServeMux: a pattern, never
	// what the client sent. It is called after the handler, for each such request; an empty result or a panic counts
	// the request as "unmatched". Nil means Mux.
	Route func(*http.Request) string
	// Slow is the latency above which a request counts as slow in Stats. Zero means 1 s.
	Slow time.Duration
}

func (o HTTPOptions) withDefaults() (HTTPOptions, error) {
	if o.MaxRoutes < 0 {
		return o, fmt.Errorf("metrics: HTTPOptions.MaxRoutes is %d: want at least 1", o.MaxRoutes)
	}
	if o.Slow < 0 {
		return o, fmt.Errorf("metrics: HTTPOptions.Slow is %v: want more than 0", o.Slow)
	}
	if o.Server == "" {
		o.Server = "http"
	}
	if o.MaxRoutes == 0 {
		o.MaxRoutes = 256
	}
	if o.Slow == 0 {
		o.Slow = time.Second
	}
	return o, nil
}

// HTTP counts the requests of a server: rate, errors, duration and sizes by route, method and class of status, and the
// requests in flight. The route is http.Request.Pattern, set by ServeMux; what no pattern matches is "unmatched".
//
// Make one with Metrics.HTTP. All methods are safe for concurrent use.
type HTTP struct {
	o      HTTPOptions
	names  *httpSeries
	routes atomic.Pointer[map[string]*routeMethods] // copy on write
	mu     sync.Mutex                               // serializes writers of routes
	begun  []paddedCount                            // requests begun, by lane
	slow   atomic.Uint64
}

// routeMethods are the counters of one pattern.
type routeMethods [len(methods)]atomic.Pointer[route]

// methods is an allow-list: a client may send any method it likes.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}

func methodIndex(m string) int {
	switch m {
	case "GET":
		return 0
	case "HEAD":
		return 1
	case "POST":
		return 2
	case "PUT":
		return 3
	case "PATCH":
		return 4
	case "DELETE":
		return 5
	case "OPTIONS":
		return 6
	}
	return len(methods) - 1
}

// route counts the requests of one pattern and method. It is striped by lane, because counters that two processors
// write cost ten times those of one.
type route struct {
	pattern, method string
	labels          expo.Labels
	stripes         [maxStripes]atomic.Pointer[routeStripe] // made at the first request that needs them
	exemplars       expo.Exemplars
}

type routeStripe struct {
	classes        [6]atomic.Uint64 // by the status's first digit; 0: hijacked
	took           expo.Durations
	sent, received expo.Sizes
	_              [64]byte // keeps the next stripe off the last cache line
}

type paddedCount struct {
	n atomic.Uint64
	_ [120]byte
}

const maxStripes = 8

// stripes is a power of two, at least the number of processors where that is not above maxStripes.
var stripes = uint32(1) << min(bits.Len(uint(runtime.GOMAXPROCS(0)-1)), bits.Len(maxStripes-1))

// HTTP returns a wrapper whose series are part of m. It fails for invalid options, and when m has a wrapper of the same
// Server already.
func (m *Metrics) HTTP(o HTTPOptions) (*HTTP, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &HTTP{o: o, names: newHTTPSeries(m.Name("http"), ""), begun: make([]paddedCount, stripes)}
	h.routes.Store(&map[string]*routeMethods{})
	return h, m.Register(h)
}

// Wrap observes next. Put it directly around the ServeMux, or set HTTPOptions.Mux or Route: a middleware in between
// that replaces the request (WithContext) hides its pattern. It is transparent for flushing, hijacking, sendfile,
// deadlines and 1xx responses, costs no allocation, and counts a panic as a 500 before it passes it on, also where the
// header had gone out with another status.
//
// A request whose traceparent header says that its trace is sampled leaves its trace id as an exemplar of the
// histogram's bucket.
func (h *HTTP) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ww := httpwrap.Get(w)
		h.begun[ww.Lane&(stripes-1)].n.Add(1)
		done := false
		defer func() {
			status := ww.Status
			switch {
			case !done: // a panic, or the end of the goroutine
				status = http.StatusInternalServerError
			case status == 0:
				status = http.StatusOK
			}
			took := time.Since(start)
			rt := h.route(h.pattern(r), r.Method)
			rt.count(ww.Lane, status, took, ww.Written, r.ContentLength)
			if took >= h.o.Slow {
				h.slow.Add(1)
			}
			if tp := r.Header["Traceparent"]; tp != nil {
				rt.keepExemplar(tp[0], took)
			}
			if done { // after a panic somebody may still hold the writer
				httpwrap.Put(ww)
			}
		}()
		next.ServeHTTP(ww, r)
		done = true
	})
}

// pattern returns the route of a request whose handler has ended.
func (h *HTTP) pattern(r *http.Request) (pattern string) {
	switch {
	case r.Pattern != "":
		return r.Pattern
	case h.o.Route != nil:
		if err := usercode.Call(func() { pattern = h.o.Route(r) }); err != nil {
			return ""
		}
	case h.o.Mux != nil:
		_, pattern = h.o.Mux.Handler(r)
	}
	return pattern
}

func (rt *route) count(lane uint32, status int, took time.Duration, sent, received int64) {
	class := 0
	if status >= 100 && status < 600 {
		class = status / 100
	}
	s := rt.stripes[lane&(stripes-1)].Load()
	if s == nil {
		rt.stripes[lane&(stripes-1)].CompareAndSwap(nil, &routeStripe{})
		s = rt.stripes[lane&(stripes-1)].Load()
	}
	s.took.Observe(took)
	if sent > 0 {
		s.sent.Observe(sent)
	}
	if received > 0 {
		s.received.Observe(received)
	}
	s.classes[class].Add(1) // last: whoever reads the classes first finds at least as many durations
}

// route finds the counters of a pattern and method. Patterns are capped.
func (h *HTTP) route(pattern, method string) *route {
	i := methodIndex(method)
	if ms := (*h.routes.Load())[pattern]; ms != nil {
		if rt := ms[i].Load(); rt != nil {
			return rt
		}
	}
	return h.addRoute(pattern, i)
}

func (h *HTTP) addRoute(pattern string, method int) *route {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := *h.routes.Load()
	ms := old[pattern]
	if ms == nil && len(old) >= h.o.MaxRoutes {
		if pattern = "other"; old[pattern] != nil {
			ms = old[pattern]
		}
	}
	if ms == nil {
		next := make(map[string]*routeMethods, len(old)+1)
		for k, v := range old {
			next[k] = v
		}
		ms = &routeMethods{}
		next[pattern] = ms
		h.routes.Store(&next)
	}
	if rt := ms[method].Load(); rt != nil {
		return rt
	}
	name := pattern
	if name == "" {
		name = "unmatched"
	}
	rt := newRoute(name, method, serverLabels, h.o.Server, name, methods[method])
	ms[method].Store(rt)
	return rt
}

// each visits the routes that were used.
func (h *HTTP) each(visit func(*route)) {
	for _, ms := range *h.routes.Load() {
		for i := range ms {
			if rt := ms[i].Load(); rt != nil {
				visit(rt)
			}
		}
	}
}

// HTTPStats are the totals of one wrapper since it was made.
type HTTPStats struct {
	Server   string
	Requests uint64 // finished
	Errors   uint64 // 5xx
	Slow     uint64 // above HTTPOptions.Slow
	InFlight int64
	Took     HistogramSnapshot
}

// RouteStats are the totals of one route and method since the wrapper was made.
type RouteStats struct {
	Route    string // the pattern, "unmatched" or "other"
	Method   string // "GET" and so on, "other" for those outside of RFC 9110 and PATCH
	Requests uint64
	Errors   uint64 // 5xx
	Took     HistogramSnapshot
}

// Routes returns the totals of the routes that had requests, in no order.
func (h *HTTP) Routes() (out []RouteStats) {
	h.each(func(rt *route) {
		t := rt.totals()
		out = append(out, RouteStats{rt.pattern, rt.method, t.requests, t.classes[5], snapshotOf(&t.took)})
	})
	return out
}

// Availability returns the counts of an objective that takes answers other than 5xx as good.
func (h *HTTP) Availability() func() (good, total uint64) {
	return func() (uint64, uint64) {
		s := h.Stats()
		return s.Requests - min(s.Errors, s.Requests), s.Requests
	}
}

// Latency returns the counts of an objective that takes answers within the threshold as good. It is rounded up to the
// next bound of the histogram, which is at most 9 % more; what a client broke off or the server failed counts by its
// time as well.
func (h *HTTP) Latency(threshold time.Duration) func() (good, total uint64) {
	return func() (good, total uint64) {
		s := h.Stats()
		return s.Took.AtMost(threshold), s.Took.Count
	}
}

// Stats returns the totals over all routes.
func (h *HTTP) Stats() HTTPStats {
	s := HTTPStats{Server: h.o.Server, Slow: h.slow.Load()}
	h.each(func(rt *route) {
		t := rt.totals()
		s.Requests += t.requests
		s.Errors += t.classes[5]
		s.Took.Merge(snapshotOf(&t.took))
	})
	s.InFlight = h.inFlight(s.Requests)
	return s
}

// inFlight is what was begun and is not among the finished; these are read first, so it is never negative.
func (h *HTTP) inFlight(finished uint64) int64 {
	var begun uint64
	for i := range h.begun {
		begun += h.begun[i].n.Load()
	}
	return max(int64(begun-finished), 0)
}
