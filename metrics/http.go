package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// HTTPOptions configure one wrapper. The zero value is ready.
type HTTPOptions struct {
	// Server labels the series, so that several servers of one process can be told apart. Empty means "http".
	Server string
	// MaxRoutes caps the number of route patterns; requests of further ones are counted under "other". Zero means 256.
	// Patterns come from the program's own ServeMux, so the cap only guards against muxes that are built from data.
	MaxRoutes int
	// Slow is the latency above which a request counts as slow in Stats. Zero means 1 s.
	Slow time.Duration
}

// HTTP counts the requests of a server: rate, errors, duration and size by route, method and class of status, and the
// requests in flight. The route is http.Request.Pattern, set by ServeMux; what no pattern matches is "unmatched".
type HTTP struct {
	o        HTTPOptions
	ns       string
	inFlight atomic.Int64
	routes   atomic.Pointer[map[routeKey]*route] // copy on write
	mu       sync.Mutex                          // serialises writers of routes
	all      Histogram
	classes  [6]atomic.Uint64
	slow     atomic.Uint64
}

type routeKey struct{ pattern, method string }

type route struct {
	pattern, method string
	classes         [6]atomic.Uint64 // by the status's first digit; 0: hijacked
	took            Histogram
	sent            atomic.Uint64
}

// HTTP returns a wrapper whose series are part of m.
func (m *Metrics) HTTP(o HTTPOptions) *HTTP {
	if o.Server == "" {
		o.Server = "http"
	}
	if o.MaxRoutes <= 0 {
		o.MaxRoutes = 256
	}
	if o.Slow <= 0 {
		o.Slow = time.Second
	}
	h := &HTTP{o: o, ns: m.name("http")}
	h.routes.Store(&map[routeKey]*route{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.https = append(m.https, h)
	if len(m.https) == 1 { // one collector speaks for all wrappers: they share the series' names
		m.registry.MustRegister(&httpCollector{m: m, descs: httpDescs(h.ns)})
	}
	return h
}

// Wrap observes next. Put it directly around the ServeMux: a middleware in between that replaces the request (WithContext)
// would hide its pattern. It is transparent for flushing, hijacking, sendfile, deadlines and 1xx responses, costs no
// allocation, and counts a panic as a 500 before it passes it on.
func (h *HTTP) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		h.inFlight.Add(1)
		ww := httpwrap.Get(w)
		done := false
		defer func() {
			h.inFlight.Add(-1)
			status := ww.Status
			switch {
			case !done && status == 0: // a panic before anything was sent
				status = http.StatusInternalServerError
			case status == 0:
				status = http.StatusOK
			}
			h.count(r, status, ww.Written, time.Since(start))
			if done { // after a panic somebody may still hold the writer
				httpwrap.Put(ww)
			}
		}()
		next.ServeHTTP(ww, r)
		done = true
	})
}

func (h *HTTP) count(r *http.Request, status int, sent int64, took time.Duration) {
	class := 0
	if status >= 100 && status < 600 {
		class = status / 100
	}
	rt := h.route(r.Pattern, r.Method)
	rt.classes[class].Add(1)
	rt.took.Observe(took)
	rt.sent.Add(uint64(sent))
	h.all.Observe(took)
	h.classes[class].Add(1)
	if took >= h.o.Slow {
		h.slow.Add(1)
	}
}

// route finds the counters of a pattern. Methods are an allow-list, and patterns are capped.
func (h *HTTP) route(pattern, method string) *route {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	default:
		method = "other"
	}
	if pattern == "" {
		pattern = "unmatched"
	}
	k := routeKey{pattern, method}
	if rt := (*h.routes.Load())[k]; rt != nil {
		return rt
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := *h.routes.Load()
	if rt := old[k]; rt != nil {
		return rt
	}
	if len(old) >= h.o.MaxRoutes*8 {
		k.pattern = "other"
		if rt := old[k]; rt != nil {
			return rt
		}
	}
	next := make(map[routeKey]*route, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	rt := &route{pattern: k.pattern, method: k.method}
	next[k] = rt
	h.routes.Store(&next)
	return rt
}

// HTTPStats are the totals of one wrapper.
type HTTPStats struct {
	Server   string
	Requests uint64
	Errors   uint64 // 5xx
	Slow     uint64
	InFlight int64
	Took     HistogramSnapshot
}

// Stats returns the totals over all routes.
func (h *HTTP) Stats() HTTPStats {
	s := HTTPStats{Server: h.o.Server, Errors: h.classes[5].Load(), Slow: h.slow.Load(), InFlight: h.inFlight.Load(), Took: h.all.Snapshot()}
	for i := range h.classes {
		s.Requests += h.classes[i].Load()
	}
	return s
}

// classicBounds are a subset of the native bounds, so that one set of counts serves both kinds of histogram: powers of
// two from about 0.5 ms to 16 s.
var classicBounds = []int{-11 * 8, -9 * 8, -8 * 8, -7 * 8, -6 * 8, -5 * 8, -4 * 8, -3 * 8, -2 * 8, -8, 0, 8, 2 * 8, 4 * 8}

type httpCollector struct {
	m     *Metrics
	descs [4]*prometheus.Desc
}

func httpDescs(ns string) [4]*prometheus.Desc {
	return [4]*prometheus.Desc{
		prometheus.NewDesc(ns+"_requests_total", "Requests by route, method and class of status", []string{"server", "route", "method", "class"}, nil),
		prometheus.NewDesc(ns+"_request_duration_seconds", "Time from the request's header to the end of the handler", []string{"server", "route", "method"}, nil),
		prometheus.NewDesc(ns+"_response_bytes_total", "Body bytes sent", []string{"server", "route", "method"}, nil),
		prometheus.NewDesc(ns+"_requests_in_flight", "Requests being handled", []string{"server"}, nil),
	}
}

func (c *httpCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c *httpCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	https := append([]*HTTP(nil), c.m.https...)
	c.m.mu.Unlock()
	for _, h := range https {
		srv := h.o.Server
		ch <- prometheus.MustNewConstMetric(c.descs[3], prometheus.GaugeValue, float64(h.inFlight.Load()), srv)
		for _, rt := range *h.routes.Load() {
			for class := range rt.classes {
				if n := rt.classes[class].Load(); n > 0 {
					name := "hijacked"
					if class > 0 {
						name = strconv.Itoa(class) + "xx"
					}
					ch <- prometheus.MustNewConstMetric(c.descs[0], prometheus.CounterValue, float64(n), srv, rt.pattern, rt.method, name)
				}
			}
			s := rt.took.Snapshot()
			ch <- prometheus.MustNewConstHistogram(c.descs[1], s.Count, s.Sum.Seconds(), s.classic(), srv, rt.pattern, rt.method)
			ch <- prometheus.MustNewConstMetric(c.descs[2], prometheus.CounterValue, float64(rt.sent.Load()), srv, rt.pattern, rt.method)
		}
	}
}

// classic cumulates the counts at the classic bounds.
func (s *HistogramSnapshot) classic() map[float64]uint64 {
	out := make(map[float64]uint64, len(classicBounds))
	seen, next := uint64(0), 0
	for i, n := range s.counts {
		seen += n
		if next < len(classicBounds) && i+firstIndex == classicBounds[next] {
			out[upper(i)] = seen
			next++
		}
	}
	return out
}

// Client observes the requests that a client sends, under the given name: time to the response's header, and errors as
// class "5xx". Its series are those of a wrapper with the pattern "client".
func (h *HTTP) Client(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		start := time.Now()
		h.inFlight.Add(1)
		defer h.inFlight.Add(-1)
		res, err := next.RoundTrip(r)
		status := http.StatusBadGateway
		if err == nil {
			status = res.StatusCode
		}
		rt := h.route("client", r.Method)
		rt.classes[status/100%6].Add(1)
		rt.took.Observe(time.Since(start))
		h.all.Observe(time.Since(start))
		h.classes[status/100%6].Add(1)
		return res, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
