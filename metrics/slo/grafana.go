package slo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tierkit/tierkit/metrics"
)

// Panel is a chart of a Grafana dashboard.
type Panel struct {
	Title string
	// Unit is "%", "ms", "s", "/s", "B", "B/s" or empty.
	Unit string
	// PromQL is what the panel shows.
	PromQL string
}

// Paneler is a collector that has charts for the overview.
type Paneler interface {
	Panels() []Panel
}

// Grafana returns a dashboard for Grafana's import, with a variable for its Prometheus data source: the given panels,
// an overview of HTTP and of collectors that are Panelers, the objectives, and one panel for each series that m has
// now, in a row for each tier.
func Grafana(m *metrics.Metrics, title string, panels ...Panel) ([]byte, error) {
	g := &grafana{source: grafanaSource{"prometheus", "${datasource}"}}
	g.row("Overview")
	for _, p := range slices.Concat(panels, overview(m)) {
		if p.PromQL != "" {
			g.add(p.Title, "", p.Unit, p.PromQL)
		}
	}
	if len(All(m)) > 0 {
		g.row("Service level objectives")
		g.add("Error budget left", "", "%", "100 * "+m.Name("slo_error_budget_remaining_ratio"))
		g.add("Burn rate", "1 spends the budget exactly in its window", "", m.Name("slo_burn_rate"))
	}
	g.addSeries(m)
	return json.MarshalIndent(map[string]any{
		"title": title, "schemaVersion": 39, "editable": true, "refresh": "10s",
		"time": map[string]string{"from": "now-1h", "to": "now"},
		"templating": map[string]any{"list": []any{
			map[string]any{"name": "datasource", "type": "datasource", "query": "prometheus"}}},
		"panels": g.panels,
	}, "", " ")
}

// overview are the panels of HTTP and of the Panelers of m.
func overview(m *metrics.Metrics) (panels []Panel) {
	requests, took := m.Name("http_requests_total"), m.Name("http_request_duration_seconds")
	hasHTTP := false
	for _, c := range m.Collectors() {
		if _, ok := c.(*metrics.HTTP); ok && !hasHTTP {
			hasHTTP = true
			panels = append(panels,
				Panel{"HTTP requests", "/s", "sum by (server) (rate(" + requests + "[$__rate_interval]))"},
				Panel{"HTTP errors (5xx)", "/s", `sum by (server) (rate(` + requests +
					`{class="5xx"}[$__rate_interval]))`},
				Panel{"HTTP latency p99", "ms", "1000 * histogram_quantile(0.99, sum by (server, le) (rate(" + took +
					"_bucket[$__rate_interval])))"})
		}
		if p, ok := c.(Paneler); ok {
			panels = append(panels, p.Panels()...)
		}
	}
	return panels
}

// grafana lays panels out, three in a row of Grafana's 24 columns.
type grafana struct {
	source grafanaSource
	panels []grafanaPanel
	x, y   int
}

type grafanaPanel struct {
	ID          int              `json:"id"`
	Type        string           `json:"type"`
	Title       string           `json:"title"`
	Description string           `json:"description,omitempty"`
	GridPos     map[string]int   `json:"gridPos"`
	Datasource  *grafanaSource   `json:"datasource,omitempty"`
	Targets     []map[string]any `json:"targets,omitempty"`
	FieldConfig map[string]any   `json:"fieldConfig,omitempty"`
}

type grafanaSource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func (g *grafana) row(name string) {
	if g.x > 0 {
		g.x, g.y = 0, g.y+8
	}
	g.panels = append(g.panels, grafanaPanel{ID: len(g.panels) + 1, Type: "row", Title: name,
		GridPos: map[string]int{"x": 0, "y": g.y, "w": 24, "h": 1}})
	g.y++
}

func (g *grafana) add(title, help, unit string, exprs ...string) {
	p := grafanaPanel{ID: len(g.panels) + 1, Type: "timeseries", Title: title, Description: help,
		Datasource:  &g.source,
		GridPos:     map[string]int{"x": g.x, "y": g.y, "w": 8, "h": 8},
		FieldConfig: map[string]any{"defaults": map[string]any{"unit": grafanaUnit(unit)}, "overrides": []any{}}}
	for i, e := range exprs {
		p.Targets = append(p.Targets, map[string]any{"refId": string(rune('A' + i)), "expr": e,
			"datasource": &g.source})
	}
	g.panels = append(g.panels, p)
	if g.x += 8; g.x == 24 {
		g.x, g.y = 0, g.y+8
	}
}

// addSeries adds a panel for each series of a scrape, but for those of the runtime and of the objectives.
func (g *grafana) addSeries(m *metrics.Metrics) {
	last := ""
	for _, f := range familiesOf(m) {
		if strings.HasPrefix(f.name, "go_") || strings.HasPrefix(f.name, "process_") ||
			strings.HasPrefix(f.name, m.Name("slo_")) {
			continue
		}
		title := strings.TrimPrefix(strings.TrimPrefix(f.name, m.Namespace()), "_")
		if tier, _, _ := strings.Cut(title, "_"); tier != last { // the word after the namespace: "http", "lb"
			g.row(tier)
			last = tier
		}
		switch f.kind {
		case "counter":
			unit := "/s"
			if strings.HasSuffix(f.name, "_bytes_total") {
				unit = "B/s"
			}
			g.add(title, f.help, unit, "rate("+f.name+"[$__rate_interval])")
		case "histogram":
			var qs []string
			for _, q := range []string{"0.5", "0.99"} {
				qs = append(qs, fmt.Sprintf("histogram_quantile(%s, sum by (le) (rate(%s_bucket[$__rate_interval])))",
					q, f.name))
			}
			g.add(title, f.help, unitOf(f.name), qs...)
		default:
			g.add(title, f.help, unitOf(f.name), f.name)
		}
	}
}

// family is what a scrape says of a series.
type family struct{ name, help, kind string }

// familiesOf reads the comments of a scrape, in the order of the names.
func familiesOf(m *metrics.Metrics) (out []family) {
	text, _ := m.Scrape("")
	var f family
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			f.name, f.help, _ = strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
			f.help = strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(f.help)
		} else if rest, ok := strings.CutPrefix(line, "# TYPE "+f.name+" "); ok {
			f.kind = strings.TrimSuffix(rest, "\n")
			out = append(out, f)
		}
	}
	return out
}

func unitOf(name string) string {
	switch {
	case strings.HasSuffix(name, "_bytes"):
		return "B"
	case strings.HasSuffix(name, "_seconds"):
		return "s"
	}
	return ""
}

func grafanaUnit(u string) string {
	switch u {
	case "%":
		return "percent"
	case "ms", "s":
		return u
	case "/s":
		return "reqps"
	case "B":
		return "bytes"
	case "B/s":
		return "Bps"
	}
	return "short"
}
