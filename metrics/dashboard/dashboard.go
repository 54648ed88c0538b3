package dashboard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/metrics"
)

// Dashboard is the page and its data. Mount it under a path that ends in a slash, with http.StripPrefix where that is
// not the root. Its charts fill while Run runs.
//
// Beside the page, under the same authorization: data (all that the page shows, as JSON), logs (search, as JSON), level
// (the log level: GET, POST), act (POST), rules.yaml and grafana.json (for Prometheus and Grafana), debug/pprof/ and
// debug/vars (the runtime's profiles and variables). All methods are safe for concurrent use.
type Dashboard struct {
	m      *metrics.Metrics
	o      Options
	panels []*panel // the application's first

	warnings *warn.Log

	mu     sync.Mutex // guards what follows; never held while a function of the application runs
	times  []int64    // milliseconds
	charts []chart
	routes routeTable
}

// panel is a Panel that is read in the background.
type panel struct {
	Panel
	busy atomic.Bool
}

type chart struct {
	Title string      `json:"title"`
	Unit  string      `json:"unit"`
	Lines []chartLine `json:"lines"`
}

type chartLine struct {
	Name   string     `json:"name"`
	Points []*float64 `json:"points"` // nil where there was no value
}

// New returns the page over what m observes and the application's own panels. It fails for invalid options.
func New(m *metrics.Metrics, o Options) (*Dashboard, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Dashboard{m: m, o: o, warnings: warn.New(o.Logger)}
	for _, p := range slices.Concat(o.Panels, builtinPanels(m)) {
		d.panels = append(d.panels, &panel{Panel: p})
		d.charts = append(d.charts, chart{Title: p.Title, Unit: p.Unit, Lines: []chartLine{}})
	}
	return d, nil
}

// Run takes a point for every chart each interval, until ctx ends, and returns its error.
func (d *Dashboard) Run(ctx context.Context) error {
	t := time.NewTicker(d.o.Interval)
	defer t.Stop()
	for {
		d.sample(time.Now())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// sample takes one point. A panel that does not answer within the interval leaves a gap.
func (d *Dashboard) sample(now time.Time) {
	type answer struct {
		i      int
		values []Value
	}
	answers := make(chan answer, len(d.panels))
	waiting := 0
	for i, p := range d.panels {
		if !p.busy.CompareAndSwap(false, true) {
			d.warn("panel "+p.Title, errBusy)
			continue
		}
		waiting++
		go func() {
			var values []Value
			defer func() {
				p.busy.Store(false)
				answers <- answer{i, values}
			}()
			d.guard("panel "+p.Title, func() { values = p.Read() })
		}()
	}
	late := time.NewTimer(d.o.Interval)
	defer late.Stop()
	read := make([][]Value, len(d.panels))
	for ; waiting > 0; waiting-- {
		select {
		case a := <-answers:
			read[a.i] = a.values
			continue
		case <-late.C:
		}
		break
	}
	routes := snapshotRoutes(d.m)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(now, read)
	d.routes.add(now, routes, d.o.RouteWindow)
}

// add appends the values to the lines of the charts and drops what is older than the history.
func (d *Dashboard) add(now time.Time, read [][]Value) {
	d.times = append(d.times, now.UnixMilli())
	drop := max(len(d.times)-d.o.History, 0)
	d.times = d.times[drop:]
	for i := range d.charts {
		d.charts[i].add(read[i], len(d.times)+drop, drop)
	}
}

// add appends the values so that each line has n points, and drops the oldest ones of each.
func (c *chart) add(values []Value, n, drop int) {
	for _, v := range values {
		j := slices.IndexFunc(c.Lines, func(l chartLine) bool { return l.Name == v.Name })
		if j < 0 {
			j = len(c.Lines)
			c.Lines = append(c.Lines, chartLine{Name: v.Name, Points: make([]*float64, n-1)})
		}
		if l := &c.Lines[j]; len(l.Points) < n {
			l.Points = append(l.Points, known(v.Value))
		}
	}
	kept := c.Lines[:0]
	for _, l := range c.Lines {
		if len(l.Points) < n {
			l.Points = append(l.Points, nil)
		}
		l.Points = l.Points[drop:]
		if slices.ContainsFunc(l.Points, func(p *float64) bool { return p != nil }) {
			kept = append(kept, l) // a line without a point left has gone, as a server that was removed
		}
	}
	c.Lines = kept
}

var errBusy = errors.New("the call before has not returned")

// guard calls a function of the application and logs what it panics with, at most once a minute for each function.
func (d *Dashboard) guard(what string, call func()) {
	if err := usercode.Call(call); err != nil {
		d.warn(what, err)
	}
}

func (d *Dashboard) warn(what string, err error) {
	d.warnings.Warn(what, "dashboard: a function of the application failed", "function", what, "err", err)
}
