package dashboard

import (
	"slices"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/security"
	"github.com/tierkit/tierkit/metrics/slo"
)

// pageData is what the page shows.
type pageData struct {
	Title     string            `json:"title"`
	Now       int64             `json:"now"`
	Interval  int64             `json:"interval_ms"`
	Times     []int64           `json:"times"`
	Tiles     []Figure          `json:"tiles"`
	Charts    []chart           `json:"charts"`
	Topology  Topology          `json:"topology"`
	Actions   []Action          `json:"actions"`
	Routes    []routeFigures    `json:"routes"`
	SLOs      []slo.Status      `json:"slos"`
	Events    []Event           `json:"events"`
	Incidents []*incident       `json:"incidents"`
	Errors    []logs.ErrorGroup `json:"errors"`
	Security  map[string]uint64 `json:"security,omitempty"`
	Cohorts   []audience.Cohort `json:"cohorts"`
	Logs      bool              `json:"logs"`
	Servers   []string          `json:"servers"`
	Level     string            `json:"level,omitempty"`
}

func (d *Dashboard) data() pageData {
	out := pageData{Title: d.o.Title, Now: time.Now().UnixMilli(), Interval: d.o.Interval.Milliseconds(),
		Tiles: []Figure{}, SLOs: []slo.Status{}, Events: []Event{}, Errors: []logs.ErrorGroup{}, Servers: []string{},
		Cohorts: []audience.Cohort{}}
	out.Topology = d.topology()
	out.Actions = append([]Action{}, d.actions()...)
	if d.o.Tiles != nil {
		d.guard("Tiles", func() { out.Tiles = append(out.Tiles, d.o.Tiles()...) })
	}
	for _, s := range slo.All(d.m) {
		d.guard("Read of an objective", func() { out.SLOs = append(out.SLOs, s.Status()) })
	}
	if d.o.Events != nil {
		d.guard("Events", func() { out.Events = append(out.Events, d.o.Events()...) })
	}
	if s := d.o.Security; s != nil {
		out.Security = s.Counts()
		for _, e := range s.Recent() {
			out.Events = append(out.Events, securityEvent(e))
		}
		slices.SortStableFunc(out.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	}
	out.Incidents = joinIncidents(out.Events)
	if d.o.Retention != nil {
		out.Cohorts = d.o.Retention.Cohorts(time.Now())
	}
	if d.o.Store != nil {
		out.Logs, out.Errors, out.Servers = true, d.o.Store.Errors(), d.o.Store.Servers()
	}
	if d.o.Logs != nil {
		out.Level = d.o.Logs.Level().Level().String()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out.Times = append([]int64{}, d.times...)
	for _, c := range d.charts {
		c.Lines = append([]chartLine{}, c.Lines...)
		out.Charts = append(out.Charts, c)
	}
	out.Routes = d.routes.figures(d.o.Apdex)
	return out
}

func securityEvent(e security.Event) Event {
	words := slices.DeleteFunc([]string{e.Kind, e.User, e.Detail}, func(s string) bool { return s == "" })
	return Event{At: e.At, Kind: "security", Text: strings.Join(words, " · ")}
}

func (d *Dashboard) topology() (t Topology) {
	if d.o.Topology != nil {
		d.guard("Topology", func() { t = d.o.Topology() })
	}
	return t
}

func (d *Dashboard) actions() (as []Action) {
	if d.o.Actions != nil {
		d.guard("Actions", func() { as = d.o.Actions() })
	}
	return as
}
