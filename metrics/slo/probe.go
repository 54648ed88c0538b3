package slo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/metrics"
)

// ProbeOptions configure a Probe. SLO, Region and Check are required.
type ProbeOptions struct {
	// SLO is the name of the objective whose alert Unreachable the probe feeds. The objective itself is measured by the
	// servers; the probe runs elsewhere.
	SLO string
	// Region is where the probe runs, and labels its series: "eu-west".
	Region string
	// Check asks the service as a user does: HTTPCheck, DNSCheck, or the program's own. It must return when its context
	// ends; one that does not has failed, and is not called again before it has returned.
	Check func(ctx context.Context) error
	// Interval is the time between two checks. Zero means 15 s.
	Interval time.Duration
	// Timeout bounds one check. Zero means 10 s; it must not be above Interval.
	Timeout time.Duration
	// Logger gets the failures at level Warn, at most one a minute. Nil means slog.Default().
	Logger *slog.Logger
}

func (o ProbeOptions) withDefaults() (ProbeOptions, error) {
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = min(10*time.Second, max(o.Interval, 0))
	}
	switch {
	case !sloName.MatchString(o.SLO):
		return o, fmt.Errorf("slo: ProbeOptions.SLO %q: want lower-case letters, digits, - and _", o.SLO)
	case o.Region == "":
		return o, errors.New("slo: ProbeOptions.Region is empty")
	case o.Check == nil:
		return o, errors.New("slo: ProbeOptions.Check is nil")
	case o.Interval < 0:
		return o, fmt.Errorf("slo: ProbeOptions.Interval is %v: want more than 0", o.Interval)
	case o.Timeout < 0 || o.Timeout > o.Interval:
		return o, fmt.Errorf("slo: ProbeOptions.Timeout is %v: want more than 0 and at most Interval, %v", o.Timeout,
			o.Interval)
	}
	return o, nil
}

// Probe asks a service from outside, through DNS, edge and TLS, where its own servers see no request and no error when
// nobody reaches them. Run one in each of three regions, outside of the service's own data centers, and let Prometheus
// scrape them. Its methods are safe for concurrent use.
type Probe struct {
	o        ProbeOptions
	m        *metrics.Metrics
	warnings *warn.Log
	failures warn.Tally
	busy     atomic.Bool

	mu    sync.Mutex // guards stats
	stats ProbeStats
}

// ProbeStats count the checks of a probe.
type ProbeStats struct {
	Checks   uint64
	Failures uint64
	// Known is set after the first check, and Up says whether the latest one succeeded.
	Known, Up bool
	// LastError is the latest failure, "" before the first, and LastErrorAt its time.
	LastError   string
	LastErrorAt time.Time
}

// NewProbe adds a probe and its series to m. It fails for invalid options, and when m has a probe of the same SLO and
// region already.
func NewProbe(m *metrics.Metrics, o ProbeOptions) (*Probe, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Probe{o: o, m: m, warnings: warn.New(o.Logger)}
	return p, m.Register(p)
}

// Run checks at each interval until ctx ends, and returns its error.
func (p *Probe) Run(ctx context.Context) error {
	t := time.NewTicker(p.o.Interval)
	defer t.Stop()
	for {
		err := p.check(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.record(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

var errBusy = errors.New("the check before has not returned")

func (p *Probe) check(ctx context.Context) error {
	if !p.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	left, err := usercode.Within(ctx, p.o.Check)
	go func() {
		<-left
		p.busy.Store(false)
	}()
	if err == nil {
		<-left // it has returned
		p.busy.Store(false)
	}
	return err
}

func (p *Probe) record(err error) {
	p.mu.Lock()
	p.stats.Checks++
	p.stats.Known, p.stats.Up = true, err == nil
	p.mu.Unlock()
	cause := p.o.SLO + "/" + p.o.Region
	if err != nil {
		p.failures.Add(err)
		p.warnings.Warn(cause, "slo: a probe failed", "slo", p.o.SLO, "region", p.o.Region, "err", err)
		return
	}
	p.warnings.Clear(cause, "slo: a probe succeeds again", "slo", p.o.SLO, "region", p.o.Region)
}

// Stats returns the counts.
func (p *Probe) Stats() ProbeStats {
	p.mu.Lock()
	s := p.stats
	p.mu.Unlock()
	s.Failures, s.LastError, s.LastErrorAt = p.failures.Load()
	return s
}

// Collect implements metrics.Collector. Before the first check nothing is known, and slo_probe_success is missing.
func (p *Probe) Collect(to *metrics.Scrape) {
	s := p.Stats()
	to.Counter(p.m.Name("slo_probe_checks_total"), "Checks from outside", float64(s.Checks), "slo", p.o.SLO, "region",
		p.o.Region)
	if !s.Known {
		return
	}
	up := 0.0
	if s.Up {
		up = 1
	}
	to.Gauge(p.m.Name("slo_probe_success"), "Whether the latest check from outside succeeded", up, "slo", p.o.SLO,
		"region", p.o.Region)
}

func (p *Probe) String() string { return "the probe of SLO " + p.o.SLO + " from " + p.o.Region }

// HTTPCheck returns a check that asks for a URL over a new connection each time, so that DNS, TCP and TLS are part of
// it. A status of 400 and above fails; redirects are not followed.
func HTTPCheck(rawURL string) (func(context.Context) error, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("slo: HTTPCheck %q: want http:// or https:// and a host", rawURL)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
		if err != nil {
			return err
		}
		r.Header.Set("User-Agent", "tierkit-probe")
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode >= 400 {
			return fmt.Errorf("status %s", res.Status)
		}
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
		return err
	}, nil
}

// DNSCheck returns a check that asks a name server, "host:port", for the addresses of a name. No address fails.
func DNSCheck(server, name string) (func(context.Context) error, error) {
	if _, _, err := net.SplitHostPort(server); err != nil {
		return nil, fmt.Errorf("slo: DNSCheck %q: want host:port", server)
	}
	if name == "" {
		return nil, errors.New("slo: DNSCheck: the name is empty")
	}
	return func(ctx context.Context) error {
		r := &net.Resolver{PreferGo: true, Dial: func(dial context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(dial, network, server)
			if err == nil { // the resolver itself goes on reading for seconds after ctx has ended
				context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		}}
		_, err := r.LookupNetIP(ctx, "ip", name)
		return err
	}, nil
}
