package slo

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

// Rule is a recording rule, which has Record, or an alert, which has Alert.
type Rule struct {
	Record string
	Alert  string
	// Expr is in PromQL.
	Expr string
	// For is how long the expression must hold before an alert fires.
	For time.Duration
	// Labels are pairs of names and values.
	Labels []string
	// Summary and Description are annotations of an alert.
	Summary, Description string
}

// Ruler is a collector that has rules for its series. Rules returns the name of their group, too.
type Ruler interface {
	Rules() (group string, rules []Rule)
}

// Rules returns alert and recording rules for Prometheus in YAML, to be named in its rule_files: the burn rates of
// every SLO of m, and what the other collectors of m have that are Rulers. They are made of what is registered when
// Rules is called.
func Rules(m *metrics.Metrics) []byte {
	var order []string
	groups := map[string][]Rule{}
	for _, c := range m.Collectors() {
		if r, ok := c.(Ruler); ok {
			group, rules := r.Rules()
			if _, seen := groups[group]; !seen {
				order = append(order, group)
			}
			groups[group] = append(groups[group], rules...)
		}
	}
	var b strings.Builder
	b.WriteString("groups:\n")
	for _, group := range order {
		fmt.Fprintf(&b, "  - name: %s\n    rules:\n", quoteYAML(m.Name(group)))
		for _, r := range groups[group] {
			r.write(&b)
		}
	}
	return []byte(b.String())
}

func (r *Rule) write(b *strings.Builder) {
	if r.Record != "" {
		fmt.Fprintf(b, "      - record: %s\n        expr: %s\n", quoteYAML(r.Record), quoteYAML(r.Expr))
	} else {
		fmt.Fprintf(b, "      - alert: %s\n        expr: %s\n", quoteYAML(r.Alert), quoteYAML(r.Expr))
		if r.For > 0 {
			fmt.Fprintf(b, "        for: %s\n", promDuration(r.For))
		}
	}
	if len(r.Labels) > 0 {
		b.WriteString("        labels:\n")
		for i := 0; i+1 < len(r.Labels); i += 2 {
			fmt.Fprintf(b, "          %s: %s\n", r.Labels[i], quoteYAML(r.Labels[i+1]))
		}
	}
	if r.Summary != "" {
		fmt.Fprintf(b, "        annotations:\n          summary: %s\n", quoteYAML(r.Summary))
	}
	if r.Description != "" {
		fmt.Fprintf(b, "          description: %s\n", quoteYAML(r.Description))
	}
}

// quoteYAML writes a double-quoted scalar: JSON's strings are YAML's.
func quoteYAML(s string) string { return strconv.QuoteToASCII(s) }

// promDuration spells a duration in the units of PromQL.
func promDuration(d time.Duration) string {
	for _, u := range []struct {
		d time.Duration
		s string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d%u.d == 0 {
			return fmt.Sprintf("%d%s", d/u.d, u.s)
		}
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
