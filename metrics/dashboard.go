package metrics

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Node is a box of the dashboard's topology.
type Node struct {
	ID    string `json:"id"`
	Label string `json:"label"`
	// Tier is the column: nodes flow from left to right in the order in which tiers first appear.
	Tier string `json:"tier"`
	// Zone groups nodes of a column, such as a data centre.
	Zone string `json:"zone,omitempty"`
	// State is "up", "down", "frozen" or "draining"; anything else is shown as it is.
	State string `json:"state"`
	// Detail is a second line: a role, a size, a lag.
	Detail string `json:"detail,omitempty"`
}

// Edge is an arrow between two nodes, drawn the thicker the more traffic it carries.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Rate is per second.
	Rate float64 `json:"rate"`
}

// Topology is what traffic flows through.
type Topology struct {
	Nodes []Node `json:"nodes"`
	Edges []Edge `json:"edges"`
}

// Value is one line of a chart, or the value of a tile, now.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Panel is a chart. Read returns the current value of each line; it must be cheap and safe at any time.
type Panel struct {
	Title string
	// Unit is shown behind values: "req/s", "ms", "%".
	Unit string
	Read func() []Value
	// PromQL is the same in Prometheus's language, for the dashboard that Grafana returns. Empty leaves the panel out
	// there.
	PromQL string
}

// Tile is a figure with its name.
type Tile struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // stands behind the figure
}

// Event is an entry of the timeline.
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // "failure", "recovery", "scale", "info"
	Text string    `json:"text"`
}

// DashboardOptions configure the page. The zero value shows HTTP, host and runtime only.
type DashboardOptions struct {
	Title string
	// Authorize lets a request see the page. Nil lets in only what comes from this machine itself: a loopback address,
	// under a Host that is a loopback address or "localhost" (so that a foreign page can't read it by DNS rebinding).
	Authorize func(*http.Request) bool
	// Topology, Panels and Events are the application's own. Topology and Events may be nil.
	Topology func() Topology
	Panels   []Panel
	Events   func() []Event
	// Tiles are figures that stand alone: revenue, unique users today.
	Tiles func() []Tile
	// Retention adds the table of cohorts.
	Retention *Retention
	// Logs adds error groups, the search of the latest records, and the level to change.
	Logs *LogHandler
	// Store is searched instead of Logs: that of the collector that all servers ship to.
	Store *LogStore
	// Security adds its events, and hears of refused calls of this page.
	Security *Security
	// Interval is the time between two points of the charts. Zero means 1 s.
	Interval time.Duration
	// History is how many points are kept. Zero means 180.
	History int
}

// Dashboard is one live page, without assets from elsewhere. Mount it under a path that ends in a slash, with
// http.StripPrefix where that is not the root. Its charts fill while Run runs.
//
// Beside the page, under the same authorisation: logs (search as JSON), level (the log level: GET, POST), rules.yaml
// and grafana.json (for Prometheus and Grafana), debug/pprof/ and debug/vars (the runtime's profiles and variables).
type Dashboard struct {
	m   *Metrics
	o   DashboardOptions
	own []Panel // the application's

	mu     sync.Mutex // guards what follows
	times  []int64    // milliseconds
	charts []chart
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

// Dashboard returns the page over what m observes and the application's own panels.
func (m *Metrics) Dashboard(o DashboardOptions) *Dashboard {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.History <= 0 {
		o.History = 180
	}
	if o.Title == "" {
		o.Title = "Service"
	}
	if o.Store == nil && o.Logs != nil {
		o.Store = o.Logs.Store()
	}
	own := o.Panels
	o.Panels = append(append([]Panel(nil), own...), m.builtinPanels()...)
	d := &Dashboard{m: m, o: o, own: own, charts: make([]chart, len(o.Panels))}
	for i, p := range o.Panels {
		d.charts[i] = chart{Title: p.Title, Unit: p.Unit, Lines: []chartLine{}}
	}
	return d
}

// Run takes a point for every chart each interval, until ctx ends.
func (d *Dashboard) Run(ctx context.Context) {
	t := time.NewTicker(d.o.Interval)
	defer t.Stop()
	for {
		d.sample(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (d *Dashboard) sample(now time.Time) {
	read := make([][]Value, len(d.o.Panels))
	for i, p := range d.o.Panels { // outside the lock: these are the application's functions
		read[i] = p.Read()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = append(d.times, now.UnixMilli())
	drop := max(len(d.times)-d.o.History, 0)
	d.times = d.times[drop:]
	for i := range d.charts {
		c := &d.charts[i]
		for _, v := range read[i] {
			j := 0
			for j < len(c.Lines) && c.Lines[j].Name != v.Name {
				j++
			}
			if j == len(c.Lines) {
				c.Lines = append(c.Lines, chartLine{Name: v.Name, Points: make([]*float64, len(d.times)-1+drop)})
			}
			c.Lines[j].Points = append(c.Lines[j].Points, &v.Value)
		}
		kept := c.Lines[:0]
		for _, l := range c.Lines {
			for len(l.Points) < len(d.times)+drop {
				l.Points = append(l.Points, nil)
			}
			l.Points = l.Points[drop:]
			alive := false
			for _, p := range l.Points {
				alive = alive || p != nil
			}
			if alive { // a line without a point left has gone, as a server that was removed
				kept = append(kept, l)
			}
		}
		c.Lines = kept
	}
}
