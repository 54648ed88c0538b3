package metrics

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// exemplar leads from a bucket of a histogram to a trace.
type exemplar struct {
	trace string
	value float64
	at    time.Time
}

// exemplify keeps the trace of a sampled request for the bucket its duration falls in.
func (rt *route) exemplify(traceparent string, took time.Duration) {
	if len(traceparent) < 55 || traceparent[53:55] == "00" { // not sampled: no need to look closer
		return
	}
	if trace, _, sampled, ok := ParseTraceparent(traceparent); ok && sampled {
		rt.exemplars[classicBucket(took)].Store(&exemplar{trace, took.Seconds(), time.Now()})
	}
}

// classicBounds are a subset of the native bounds, so that one set of counts serves both kinds of histogram: powers of
// two from about 0.5 ms to 16 s.
var classicBounds = [...]int{-11 * 8, -9 * 8, -8 * 8, -7 * 8, -6 * 8, -5 * 8, -4 * 8, -3 * 8, -2 * 8, -8, 0, 8, 2 * 8,
	4 * 8}

// classicBucket is the first classic bound that a duration does not exceed; len(classicBounds) is +Inf.
func classicBucket(d time.Duration) int {
	i, c := bucket(d)+firstIndex, 0
	for c < len(classicBounds) && i > classicBounds[c] {
		c++
	}
	return c
}

// classic cumulates the counts at the classic bounds; the last one is +Inf.
func (s *HistogramSnapshot) classic() (at [len(classicBounds) + 1]uint64) {
	i, seen := 0, uint64(0)
	for c, bound := range classicBounds {
		for ; i+firstIndex <= bound; i++ {
			seen += s.counts[i]
		}
		at[c] = seen
	}
	at[len(classicBounds)] = s.Count
	return at
}

var (
	serverLabels = []string{"server", "route", "method"}
	clientLabels = []string{"client", "method"}
)

// httpSeries are the names of one kind: servers or clients.
type httpSeries struct {
	requests, duration, sent, received, inFlight series
}

func newHTTPSeries(ns, what string, labels []string) httpSeries {
	s := func(name, help string, k kind, more ...string) series {
		return newSeries(ns+name, help, k, append(labels[:len(labels):len(labels)], more...)...)
	}
	return httpSeries{
		requests: s("_requests_total", "Requests"+what+" by class of status", counter, "class"),
		duration: s("_request_duration_seconds", "Time of requests"+what, histogram),
		sent:     s("_response_size_bytes", "Body bytes of responses"+what, histogram),
		received: s("_request_size_bytes", "Body bytes of requests"+what+", as announced", histogram),
		inFlight: newSeries(ns+"_requests_in_flight", "Requests"+what+" in flight", gauge, labels[:1]...),
	}
}

// httpCollector speaks for all wrappers and clients: they share the series' names.
type httpCollector struct {
	m       *Metrics
	server  httpSeries
	client  httpSeries
	servers []*HTTP // guarded by m.mu
	clients []*Client
}

// addHTTP registers the collector at its first use.
func (m *Metrics) addHTTP(add func(*httpCollector)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.http == nil {
		m.http = &httpCollector{m: m, server: newHTTPSeries(m.name("http"), "", serverLabels),
			client: newHTTPSeries(m.name("http_client"), " to others", clientLabels)}
		m.own = append(m.own, m.http)
		m.registry.MustRegister(m.http)
	}
	add(m.http)
}

func (c *httpCollector) all() ([]*HTTP, []*Client) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.servers[:len(c.servers):len(c.servers)], c.clients[:len(c.clients):len(c.clients)]
}

func (c *httpCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range []httpSeries{c.server, c.client} {
		for _, x := range []series{s.requests, s.duration, s.sent, s.received, s.inFlight} {
			ch <- x.desc
		}
	}
}

// each visits every route of every wrapper and client, and then their requests in flight.
func (c *httpCollector) each(visit func(*httpSeries, *route, *routeTotals),
	flight func(s *httpSeries, name string, n int64)) {
	servers, clients := c.all()
	var t routeTotals
	for _, h := range servers {
		var finished uint64
		h.each(func(rt *route) {
			t = rt.totals()
			finished += t.requests
			visit(&c.server, rt, &t)
		})
		flight(&c.server, h.o.Server, h.inFlight(finished))
	}
	for _, cl := range clients {
		cl.each(func(rt *route) {
			t = rt.totals()
			visit(&c.client, rt, &t)
		})
		flight(&c.client, cl.name, cl.inFlight.Load())
	}
}

var classNames = [6]string{"hijacked", "1xx", "2xx", "3xx", "4xx", "5xx"}

// render writes the text format; the labels of a route were rendered when it was made.
func (c *httpCollector) render(p *page, constant string) {
	c.each(func(s *httpSeries, rt *route, t *routeTotals) {
		labels := join(constant, rt.labels)
		f := p.family(&s.requests)
		for class, n := range t.classes {
			if n > 0 {
				f.open("", labels)
				f.buf = append(append(append(f.buf, `,class="`...), classNames[class]...), `"} `...)
				f.uint(n)
			}
		}
		p.durations(p.family(&s.duration), labels, &t.took, &rt.exemplars)
		p.sizes(p.family(&s.sent), labels, &t.sent, t.requests)
		p.sizes(p.family(&s.received), labels, &t.received, t.requests)
	}, func(s *httpSeries, name string, n int64) {
		f := p.family(&s.inFlight)
		f.open("", join(constant, renderLabels(s.inFlight.labels, []string{name})))
		f.buf = append(f.buf, `} `...)
		f.uint(uint64(n))
	})
}

func (c *httpCollector) Collect(ch chan<- prometheus.Metric) {
	c.each(func(s *httpSeries, rt *route, t *routeTotals) {
		for class, n := range t.classes {
			if n > 0 {
				ch <- prometheus.MustNewConstMetric(s.requests.desc, prometheus.CounterValue, float64(n),
					append(rt.values[:len(rt.values):len(rt.values)], classNames[class])...)
			}
		}
		ch <- &durationMetric{desc: s.duration.desc, labels: s.duration.labels, values: rt.values, took: t.took,
			exemplars: &rt.exemplars}
		for _, x := range []struct {
			s *series
			t *sizesSnapshot
		}{{&s.sent, &t.sent}, {&s.received, &t.received}} {
			at, buckets := x.t.cumulate(t.requests), make(map[float64]uint64, len(sizeBounds))
			for i, b := range sizeBounds {
				buckets[b] = at[i]
			}
			ch <- prometheus.MustNewConstHistogram(x.s.desc, at[sizeBuckets-1], float64(x.t.sum), buckets, rt.values...)
		}
	}, func(s *httpSeries, name string, n int64) {
		ch <- prometheus.MustNewConstMetric(s.inFlight.desc, prometheus.GaugeValue, float64(n), name)
	})
}

// durationMetric is a histogram in both forms, which client_golang's constant histograms cannot be.
type durationMetric struct {
	desc           *prometheus.Desc
	labels, values []string
	took           HistogramSnapshot
	exemplars      *[len(classicBounds) + 1]atomic.Pointer[exemplar]
}

func (m *durationMetric) Desc() *prometheus.Desc { return m.desc }

func (m *durationMetric) Write(out *dto.Metric) error {
	for i, name := range m.labels {
		out.Label = append(out.Label, &dto.LabelPair{Name: proto.String(name), Value: proto.String(m.values[i])})
	}
	out.Histogram = m.took.proto()
	for i := range m.exemplars {
		e := m.exemplars[i].Load()
		if e == nil {
			continue
		}
		if i == len(classicBounds) {
			out.Histogram.Bucket = append(out.Histogram.Bucket,
				&dto.Bucket{CumulativeCount: proto.Uint64(m.took.Count), UpperBound: proto.Float64(inf)})
		}
		out.Histogram.Bucket[i].Exemplar = &dto.Exemplar{Value: proto.Float64(e.value),
			Timestamp: timestamppb.New(e.at),
			Label:     []*dto.LabelPair{{Name: proto.String("trace_id"), Value: proto.String(e.trace)}}}
	}
	return nil
}

// proto returns the classic buckets and, for scrapes in protobuf, the native ones (Prometheus's sparse histograms,
// schema 3). What is shorter than the first bound is in the zero bucket.
func (s *HistogramSnapshot) proto() *dto.Histogram {
	h := &dto.Histogram{SampleCount: proto.Uint64(s.Count), SampleSum: proto.Float64(s.Sum.Seconds()),
		Schema:        proto.Int32(schema),
		ZeroThreshold: proto.Float64(upper(0)), ZeroCount: proto.Uint64(s.counts[0])}
	at := s.classic()
	for i, b := range classicBounds {
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: proto.Uint64(at[i]),
			UpperBound: proto.Float64(upper(b - firstIndex))})
	}
	next, before := int32(0), int64(0) // the index after the last span, the count before
	for i := 1; i < buckets; i++ {
		n := int64(s.counts[i])
		if n == 0 {
			continue
		}
		index := int32(i + firstIndex)
		if len(h.PositiveSpan) == 0 || index != next {
			h.PositiveSpan = append(h.PositiveSpan,
				&dto.BucketSpan{Offset: proto.Int32(index - next), Length: proto.Uint32(0)})
		}
		span := h.PositiveSpan[len(h.PositiveSpan)-1]
		*span.Length++
		h.PositiveDelta = append(h.PositiveDelta, n-before)
		next, before = index+1, n
	}
	if len(h.PositiveSpan) == 0 { // says that it is a native histogram, though an empty one
		h.PositiveSpan = []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(0)}}
	}
	return h
}

// le are the bounds as label values: text format and OpenMetrics write whole numbers differently.
type le struct{ text, openMetrics []string }

func newLE(bounds []float64) (l le) {
	for _, b := range bounds {
		s := strconv.FormatFloat(b, 'g', -1, 64)
		l.text = append(l.text, `,le="`+s+`"} `)
		l.openMetrics = append(l.openMetrics, `,le="`+openMetricsFloat(s)+`"} `)
	}
	l.text, l.openMetrics = append(l.text, `,le="+Inf"} `), append(l.openMetrics, `,le="+Inf"} `)
	return l
}

var (
	durationLE = func() le {
		var b []float64
		for _, i := range classicBounds {
			b = append(b, upper(i-firstIndex))
		}
		return newLE(b)
	}()
	sizeLE = newLE(sizeBounds[:])
)

func (p *page) durations(f *family, labels string, s *HistogramSnapshot,
	ex *[len(classicBounds) + 1]atomic.Pointer[exemplar]) {
	le := p.le(&durationLE)
	for i, n := range s.classic() {
		f.open("_bucket", labels)
		f.buf = strconv.AppendUint(append(f.buf, le[i]...), n, 10)
		if e := ex[i].Load(); p.openMetrics && e != nil {
			f.buf = append(append(append(f.buf, ` # {trace_id="`...), e.trace...), `"} `...)
			f.buf = strconv.AppendFloat(f.buf, e.value, 'g', -1, 64)
			f.buf = strconv.AppendFloat(append(f.buf, ' '), float64(e.at.UnixMilli())/1000, 'f', 3, 64)
		}
		f.buf = append(f.buf, '\n')
	}
	f.close(labels, s.Sum.Seconds(), s.Count)
}

func (p *page) sizes(f *family, labels string, s *sizesSnapshot, requests uint64) {
	le, at := p.le(&sizeLE), s.cumulate(requests)
	for i, n := range at {
		f.open("_bucket", labels)
		f.buf = append(f.buf, le[i]...)
		f.uint(n)
	}
	f.close(labels, float64(s.sum), at[sizeBuckets-1])
}

func (p *page) le(l *le) []string {
	if p.openMetrics {
		return l.openMetrics
	}
	return l.text
}
