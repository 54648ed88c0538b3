package slo

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// burnPair is a pair of windows that must both burn too fast. Share is how much of the budget the long window may
// spend.
type burnPair struct {
	long, short time.Duration
	share       float64
	severity    string
}

const day = 24 * time.Hour

var burnPairs = []burnPair{
	{time.Hour, 5 * time.Minute, 0.02, "page"},
	{6 * time.Hour, 30 * time.Minute, 0.05, "page"},
	{day, 2 * time.Hour, 0.10, "ticket"},
	{3 * day, 6 * time.Hour, 0.10, "ticket"},
}

// rate returns how many times too fast the budget for a window of the objective may be spent: 14.4, 6, 3 and 1 for 30
// days. A page takes at least 2, a ticket 1: below that a short objective would alert for what it allows.
func (p burnPair) rate(window time.Duration) float64 {
	least := 1.0
	if p.severity == "page" {
		least = 2
	}
	return max(least, p.share*float64(window)/float64(p.long))
}

// The least evidence for an alert. Ten bad events at six times the budget's rate come by chance once in a hundred
// thousand windows of six hours; a minimum of traffic instead would silence the outage of a quiet service.
const (
	enoughBad = 10
	chance    = 4.0 // standard deviations, for pages; one less for tickets
)

// conditions returns when a pair alerts. The view of the window's own traffic is left out where it cannot hold, because
// more than nine tenths of all events would have to be bad; then Outage takes its place.
func (p burnPair) conditions(n series, b float64, window time.Duration) (cs []condition) {
	k, z := p.rate(window), chance
	still := 3.0 // bad events that show that it goes on: one or two are the ordinary background
	if p.short == 5*time.Minute {
		still = 2
	}
	evidence := []condition{n.count(p.long, enoughBad), n.count(p.short, still)}
	if p.severity == "ticket" {
		z--
		evidence = append(evidence, n.certain(p.short, b, 1)) // its short window is long: chance counts there, too
	}
	evidence = append(evidence, n.certain(p.long, b, z))
	if k*b <= 0.9 {
		cs = append(cs, all(slices.Concat([]condition{n.above(p.long, k*b), n.above(p.short, k*b)}, evidence)...))
	}
	if k > 1 {
		least := math.Min(2*b, (1+b)/2) // keeps a mere surge of traffic from paging
		cs = append(cs, all(slices.Concat([]condition{n.spent(p.long, k, b), n.spent(p.short, k, b),
			n.above(p.long, least), n.above(p.short, least)}, evidence)...))
	}
	return cs
}

// outage holds when there is little but errors, which is more than any objective allows.
func outage(n series, b float64) condition {
	down := func(long, short time.Duration) condition {
		return all(n.above(long, 0.75), n.above(short, 0.9), n.count(long, enoughBad), n.certain(long, b, chance))
	}
	return anyOf(down(15*time.Minute, 5*time.Minute), down(30*time.Minute, 15*time.Minute),
		down(time.Hour, 15*time.Minute), down(2*time.Hour, 30*time.Minute))
}

// alert is an alert of one objective.
type alert struct {
	name, severity string
	summary        string
	description    string
	wait           time.Duration
	when           condition
}

// alerts returns the alerts of the objective.
func (s *SLO) alerts() (out []alert) {
	n, b := s.series(), 1-s.o.Objective
	var pages, tickets []condition
	for _, p := range burnPairs {
		switch cs := p.conditions(n, b, s.o.Window); {
		case p.long >= s.o.Window: // it looks further back than the budget reaches
		case p.severity == "page":
			pages = append(pages, cs...)
		default:
			tickets = append(tickets, cs...)
		}
	}
	goal := fmt.Sprintf("The objective is %s %% good events over %s.", number(100*s.o.Objective),
		promDuration(s.o.Window))
	if len(pages) > 0 {
		out = append(out, alert{name: "ErrorBudgetBurn", severity: "page", when: anyOf(pages...),
			summary:     "SLO " + s.o.Name + " burns its error budget: it will be spent within days",
			description: goal + " Users see errors now: find the instance, route or deployment and take it back."})
	}
	if len(tickets) > 0 {
		out = append(out, alert{name: "ErrorBudgetBurn", severity: "ticket", when: anyOf(tickets...),
			summary:     "SLO " + s.o.Name + " burns its error budget: it will not last",
			description: goal + " Errors come slowly but for long."})
	}
	total := s.m.Name("slo_events_total") + n.selector
	return append(out,
		alert{name: "Outage", severity: "page", wait: 3 * time.Minute, when: outage(n, b),
			summary:     "SLO " + s.o.Name + ": most events are bad",
			description: goal + " Nearly everything fails."},
		alert{name: "NoTraffic", severity: "page", wait: 2 * time.Minute,
			when: condition{expr: fmt.Sprintf("%s == 0 and %s:total:low%s * 900 > 20", n.total(15*time.Minute),
				n.prefix,
				n.selector)},
			summary: "SLO " + s.o.Name + ": no events, where there always are some",
			description: "In 95 % of the quarters of an hour of the week before yesterday there were more. Look at " +
				"what stands before the service: DNS, edge, certificates, balancer."},
		alert{name: "Unreachable", severity: "page", wait: 2 * time.Minute,
			when: condition{expr: fmt.Sprintf("%[1]s:probe:ok10m%[2]s < 0.1 and %[1]s:probe:ok2m%[2]s < 0.1", n.prefix,
				n.selector)},
			summary:     "SLO " + s.o.Name + ": probes from outside do not reach the service",
			description: "More than nine in ten probes fail. See the series slo_probe_success by region."},
		alert{name: "SeriesAbsent", severity: "page", wait: 5 * time.Minute,
			when:        condition{expr: "absent(" + total + ")"},
			summary:     "SLO " + s.o.Name + ": no server reports it",
			description: "Either all servers are dead, or Prometheus cannot scrape any of them."},
		alert{name: "TargetsMissing", severity: "ticket", wait: 15 * time.Minute,
			when: condition{expr: fmt.Sprintf("%[1]s:targets%[2]s < 0.6 * max_over_time(%[1]s:targets%[2]s[1h])",
				n.prefix,
				n.selector)},
			summary:     "SLO " + s.o.Name + ": fewer servers report it than an hour ago",
			description: "What the other servers do is not known."},
	)
}

func (s *SLO) series() series {
	return series{prefix: s.m.Name("slo"), selector: `{slo="` + s.o.Name + `"}`}
}

// Rules implements Ruler: recorded rates over each window that the alerts look at, and the alerts. All servers of a job
// are summed, because the objective is the service's.
//
// Windows must hold at least four scrapes: at a scrape interval above 75 s, 5m is too short.
func (s *SLO) Rules() (group string, rules []Rule) {
	n := s.series()
	labels := []string{"slo", s.o.Name}
	record := func(name, expr string) {
		rules = append(rules, Rule{Record: name, Expr: expr, Labels: labels})
	}
	windows := []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
		6 * time.Hour}
	for _, p := range burnPairs {
		if p.long < s.o.Window {
			windows = append(windows, p.long)
		}
	}
	slices.Sort(windows)
	for _, w := range slices.Compact(windows) {
		record(n.prefix+":bad:rate"+promDuration(w), fmt.Sprintf("sum(rate(%s%s[%s]))",
			s.m.Name("slo_bad_events_total"), n.selector, promDuration(w)))
		record(n.prefix+":total:rate"+promDuration(w), fmt.Sprintf("sum(rate(%s%s[%s]))",
			s.m.Name("slo_events_total"), n.selector, promDuration(w)))
	}
	record(n.prefix+":total:mean", fmt.Sprintf("avg_over_time(%s[7d])", n.total(time.Hour)))
	record(n.prefix+":total:low", fmt.Sprintf("quantile_over_time(0.05, %s[7d] offset 1d)", n.total(15*time.Minute)))
	for _, w := range []string{"10m", "2m"} {
		record(n.prefix+":probe:ok"+w, fmt.Sprintf("avg(avg_over_time(%s%s[%s]))", s.m.Name("slo_probe_success"),
			n.selector, w))
	}
	record(n.prefix+":targets", fmt.Sprintf("count(%s%s)", s.m.Name("slo_events_total"), n.selector))
	for _, a := range s.alerts() {
		rules = append(rules, Rule{Alert: a.name, Expr: a.when.expr, For: a.wait, Summary: a.summary,
			Description: a.description, Labels: []string{"slo", s.o.Name, "severity", a.severity}})
	}
	return "slo", rules
}
