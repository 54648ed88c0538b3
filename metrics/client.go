package metrics

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/metrics/internal/ids"
)

// Client observes the requests that a program sends: rate, errors and duration by method and class of status. Servers
// answer the class; a request that got no answer is "5xx". It is an http.RoundTripper, safe for concurrent use.
type Client struct {
	name     string
	names    *httpSeries
	next     http.RoundTripper
	routes   [len(methods)]atomic.Pointer[route]
	inFlight atomic.Int64
}

// Client wraps next, nil for http.DefaultTransport. The name labels the series: name what is called ("payments"), not a
// host that comes from data; no two clients may have the same. Requests whose context carries ids of package trace pass
// the trace on in a traceparent header.
func (m *Metrics) Client(name string, next http.RoundTripper) (*Client, error) {
	if name == "" {
		return nil, errors.New("metrics: Client: the name is empty")
	}
	if next == nil {
		next = http.DefaultTransport
	}
	c := &Client{name: name, names: newHTTPSeries(m.Name("http_client"), " to others"), next: next}
	return c, m.Register(c)
}

// RoundTrip implements http.RoundTripper. The duration is the time until the response's header; in flight is a request
// until then.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	if id := ids.From(r.Context()); id != nil && id.Trace != "" && r.Header.Get("Traceparent") == "" {
		traced := *r // a RoundTripper must not change the caller's request
		if traced.Header = r.Header.Clone(); traced.Header == nil {
			traced.Header = http.Header{}
		}
		traced.Header.Set("Traceparent", id.Traceparent())
		r = &traced
	}
	start := time.Now()
	c.inFlight.Add(1)
	res, err := c.next.RoundTrip(r)
	c.inFlight.Add(-1)
	status, sent := http.StatusBadGateway, int64(0)
	if err == nil {
		status, sent = res.StatusCode, res.ContentLength
	}
	c.route(methodIndex(r.Method)).count(0, status, time.Since(start), sent, r.ContentLength)
	return res, err
}

func (c *Client) route(method int) *route {
	rt := c.routes[method].Load()
	if rt == nil {
		c.routes[method].CompareAndSwap(nil, newRoute("", method, clientLabels, c.name, methods[method]))
		rt = c.routes[method].Load()
	}
	return rt
}

func (c *Client) each(visit func(*route)) {
	for i := range c.routes {
		if rt := c.routes[i].Load(); rt != nil {
			visit(rt)
		}
	}
}
