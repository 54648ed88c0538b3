package metrics

import (
	"time"

	"github.com/tierkit/tierkit/metrics/internal/expo"
	"github.com/tierkit/tierkit/metrics/internal/ids"
)

var (
	serverLabels = []string{"server", "route", "method"}
	clientLabels = []string{"client", "method"}
)

func newRoute(pattern string, method int, names []string, values ...string) *route {
	return &route{pattern: pattern, method: methods[method], labels: expo.NewLabels(names, values)}
}

// routeTotals are the sums over a route's stripes.
type routeTotals struct {
	requests       uint64
	classes        [6]uint64
	took           expo.DurationsSnapshot
	sent, received expo.SizesSnapshot
}

func (rt *route) totals() (t routeTotals) {
	for i := range rt.stripes {
		s := rt.stripes[i].Load()
		if s == nil {
			continue
		}
		for c := range s.classes {
			n := s.classes[c].Load()
			t.classes[c] += n
			t.requests += n
		}
		s.took.AddTo(&t.took)
		s.sent.AddTo(&t.sent)
		s.received.AddTo(&t.received)
	}
	return t
}

// keepExemplar keeps the trace of a sampled request for the bucket that its duration falls in.
func (rt *route) keepExemplar(traceparent string, took time.Duration) {
	if len(traceparent) < 55 || traceparent[53:55] == "00" { // not sampled: no need to look closer
		return
	}
	if trace, _, sampled, ok := ids.Parse(traceparent); ok && sampled {
		rt.exemplars.Keep(trace, took)
	}
}

// httpSeries are the names of one kind: servers or clients.
type httpSeries struct {
	requests, duration, sent, received, inFlight expo.Series
}

func newHTTPSeries(ns, what string) *httpSeries {
	return &httpSeries{
		requests: expo.Series{Name: ns + "_requests_total", Help: "Requests" + what + " by class of status",
			Kind: expo.Counter},
		duration: expo.Series{Name: ns + "_request_duration_seconds", Help: "Time of requests" + what,
			Kind: expo.Histogram},
		sent: expo.Series{Name: ns + "_response_size_bytes", Help: "Body bytes of responses" + what,
			Kind: expo.Histogram},
		received: expo.Series{Name: ns + "_request_size_bytes", Help: "Body bytes of requests" + what +
			", as announced", Kind: expo.Histogram},
		inFlight: expo.Series{Name: ns + "_requests_in_flight", Help: "Requests" + what + " in flight",
			Kind: expo.Gauge},
	}
}

// classLabels are those of the six classes of status.
var classLabels = func() (l [6]expo.Labels) {
	for i, class := range [...]string{"hijacked", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		l[i] = expo.NewLabels([]string{"class"}, []string{class})
	}
	return l
}()

// add adds the series of routes to a page, and returns how many requests have finished.
func (s *httpSeries) add(p *expo.Page, each func(func(*route))) (finished uint64) {
	requests, duration := p.Family(&s.requests), p.Family(&s.duration)
	sent, received := p.Family(&s.sent), p.Family(&s.received)
	each(func(rt *route) {
		t := rt.totals()
		finished += t.requests
		for class, n := range t.classes {
			if n > 0 {
				requests.Count(rt.labels, classLabels[class], n)
			}
		}
		duration.Durations(rt.labels, &t.took, &rt.exemplars)
		sent.Sizes(rt.labels, &t.sent, t.requests)
		received.Sizes(rt.labels, &t.received, t.requests)
	})
	return finished
}

func (s *httpSeries) addInFlight(p *expo.Page, label, name string, n int64) {
	l := expo.NewLabels([]string{label}, []string{name})
	p.Family(&s.inFlight).Count(l, expo.Labels{}, uint64(n))
}

// Collect implements Collector.
func (h *HTTP) Collect(s *Scrape) {
	finished := h.names.add(s.page, h.each)
	h.names.addInFlight(s.page, "server", h.o.Server, h.inFlight(finished))
}

// Collect implements Collector.
func (c *Client) Collect(s *Scrape) {
	c.names.add(s.page, c.each)
	c.names.addInFlight(s.page, "client", c.name, c.inFlight.Load())
}
