package metrics

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

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

// Grafana returns a dashboard for Grafana's import, with a variable for its Prometheus data source: the panels of the
// live page that have a PromQL expression, the SLOs, and one for each series that is registered now, a row for each
// tier. An error can only come from a collector.
func (m *Metrics) Grafana(title string, panels ...Panel) ([]byte, error) {
	var out []grafanaPanel
	y, x := 0, 0
	source := &grafanaSource{"prometheus", "${datasource}"}
	row := func(name string) {
		if x > 0 {
			x, y = 0, y+8
		}
		out = append(out, grafanaPanel{ID: len(out) + 1, Type: "row", Title: name,
			GridPos: map[string]int{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
	}
	add := func(title, help, unit string, exprs ...string) {
		p := grafanaPanel{ID: len(out) + 1, Type: "timeseries", Title: title, Description: help, Datasource: source,
			GridPos:     map[string]int{"x": x, "y": y, "w": 8, "h": 8},
			FieldConfig: map[string]any{"defaults": map[string]any{"unit": grafanaUnit(unit)}, "overrides": []any{}}}
		for i, e := range exprs {
			p.Targets = append(p.Targets, map[string]any{"refId": string(rune('A' + i)), "expr": e,
				"datasource": source})
		}
		out = append(out, p)
		if x += 8; x == 24 {
			x, y = 0, y+8
		}
	}
	row("Overview")
	for _, p := range append(slices.Clone(panels), m.builtinPanels()...) {
		if p.PromQL != "" {
			add(p.Title, "", p.Unit, p.PromQL)
		}
	}
	if len(m.objectives()) > 0 {
		row("Service level objectives")
		add("Error budget left", "", "%", "100 * "+m.name("slo_error_budget_remaining_ratio"))
		add("Burn rate", "1 spends the budget exactly in its window", "", m.name("slo_burn_rate"))
	}
	families, err := m.registry.Gather()
	last := ""
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") ||
			strings.HasPrefix(name, m.name("slo_")) {
			continue
		}
		if tier := m.tier(name); tier != last {
			row(tier)
			last = tier
		}
		title := strings.TrimPrefix(strings.TrimPrefix(name, m.o.Namespace), "_")
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			unit := "/s"
			if strings.HasSuffix(name, "_bytes_total") {
				unit = "B/s"
			}
			add(title, f.GetHelp(), unit, "rate("+name+"[1m])")
		case dto.MetricType_HISTOGRAM:
			var qs []string
			for _, q := range []string{"0.5", "0.99"} {
				qs = append(qs, fmt.Sprintf("histogram_quantile(%s, sum by (le) (rate(%s_bucket[1m])))", q, name))
			}
			add(title, f.GetHelp(), unitOf(name), qs...)
		default:
			add(title, f.GetHelp(), unitOf(name), name)
		}
	}
	b, jsonErr := json.MarshalIndent(map[string]any{
		"title": title, "schemaVersion": 39, "editable": true, "refresh": "10s",
		"time": map[string]string{"from": "now-1h", "to": "now"},
		"templating": map[string]any{"list": []any{
			map[string]any{"name": "datasource", "type": "datasource", "query": "prometheus"}}},
		"panels": out,
	}, "", " ")
	if err == nil {
		err = jsonErr
	}
	return b, err
}

// tier is the word after the namespace: "http", "host", "lb".
func (m *Metrics) tier(name string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(name, m.o.Namespace), "_")
	word, _, _ := strings.Cut(rest, "_")
	return word
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
