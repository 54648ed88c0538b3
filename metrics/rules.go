package metrics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rule is a recording rule or an alert.
type rule struct {
	record, alert, expr string
	wait                time.Duration // of an alert
	labels              [][2]string
	summary             string
}

// Rules returns alert and recording rules for Prometheus in YAML, to be named in its rule_files: the burn rates of
// every SLO, the security events, the host and the targets themselves. They are made of what is registered when Rules
// is called.
func (m *Metrics) Rules() []byte {
	var b strings.Builder
	b.WriteString("groups:\n")
	group := func(name string, rules []rule) {
		if len(rules) == 0 {
			return
		}
		fmt.Fprintf(&b, "  - name: %s\n    rules:\n", quoteYAML(m.name(name)))
		for _, r := range rules {
			if r.record != "" {
				fmt.Fprintf(&b, "      - record: %s\n        expr: %s\n", quoteYAML(r.record), quoteYAML(r.expr))
			} else {
				fmt.Fprintf(&b, "      - alert: %s\n        expr: %s\n", quoteYAML(r.alert), quoteYAML(r.expr))
				if r.wait > 0 {
					fmt.Fprintf(&b, "        for: %s\n", promDuration(r.wait))
				}
			}
			if len(r.labels) > 0 {
				b.WriteString("        labels:\n")
				for _, l := range r.labels {
					fmt.Fprintf(&b, "          %s: %s\n", l[0], quoteYAML(l[1]))
				}
			}
			if r.summary != "" {
				fmt.Fprintf(&b, "        annotations:\n          summary: %s\n", quoteYAML(r.summary))
			}
		}
	}
	group("slo", m.sloRules())
	group("security", m.securityRules())
	if !m.o.NoHost {
		group("host", m.hostRules())
	}
	return []byte(b.String())
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

// sloRules record the share of bad events over every window that an alert looks at, and compare two of them with the
// budget. All servers of a job are summed: the objective is the service's.
func (m *Metrics) sloRules() (rules []rule) {
	for _, o := range m.objectives() {
		s := &o.slo
		sel := `{slo="` + s.Name + `"}`
		labels := [][2]string{{"slo", s.Name}}
		recorded := func(w time.Duration) string { return m.name("slo") + ":bad_ratio:rate" + promDuration(w) }
		var windows []time.Duration
		for _, a := range s.alerts() {
			windows = append(windows, a.long, a.short)
		}
		slices.Sort(windows)
		for _, w := range slices.Compact(windows) {
			d := promDuration(w)
			rules = append(rules, rule{record: recorded(w), labels: labels,
				expr: fmt.Sprintf("1 - sum(rate(%s%s[%s])) / (sum(rate(%s%s[%s])) > 0)",
					m.name("slo_good_events_total"), sel, d, m.name("slo_events_total"), sel, d)})
		}
		for _, a := range s.alerts() {
			limit := strconv.FormatFloat(a.threshold(s.Window)*(1-s.Objective), 'g', 6, 64)
			rules = append(rules, rule{alert: "ErrorBudgetBurn",
				labels: append(labels[:1:1], [2]string{"severity", a.severity},
					[2]string{"window", promDuration(a.long)}),
				expr: fmt.Sprintf("%s%s > %s and %s%s > %s", recorded(a.long), sel, limit, recorded(a.short), sel,
					limit),
				summary: fmt.Sprintf("SLO %s: %.4g %% of its error budget for %s is being spent in %s", s.Name,
					100*a.share, promDuration(s.Window), promDuration(a.long))})
		}
	}
	return rules
}

func (m *Metrics) securityRules() (rules []rule) {
	m.mu.Lock()
	s := m.security
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	name := m.name("security_events_total")
	for _, a := range []struct {
		kind, alert string
		over        time.Duration
		more        int
		severity    string
		summary     string
	}{
		{RefreshReuse, "RefreshTokenReused", 10 * time.Minute, 0, "page",
			"A refresh token was used twice: one of the two users stole it"},
		{RevokedUse, "RevokedSessionUsed", 10 * time.Minute, 10, "ticket",
			"Revoked sessions or tokens are being tried"},
		{BadSignature, "ForgedTokens", 10 * time.Minute, 100, "ticket",
			"Cookies or tokens are being forged, or a key was dropped too early"},
		{FailedLogin, "FailedLogins", 5 * time.Minute, 300, "page",
			"More than one failed login a second: passwords are being guessed"},
		{CrossOrigin, "CrossOriginRequests", 10 * time.Minute, 50, "ticket",
			"Another site makes browsers send requests here"},
		{AdminRefused, "AdminRefused", 10 * time.Minute, 20, "ticket", "Somebody tries the administrative pages"},
		{RateLimited, "ManyRateLimited", 10 * time.Minute, 10_000, "ticket", "Many requests are over their limit"},
	} {
		rules = append(rules, rule{alert: a.alert, labels: [][2]string{{"severity", a.severity}}, summary: a.summary,
			expr: fmt.Sprintf(`sum(increase(%s{kind="%s"}[%s])) > %d`, name, a.kind, promDuration(a.over), a.more)})
	}
	return rules
}

func (m *Metrics) hostRules() []rule {
	n := func(s string) string { return m.name("host_" + s) }
	severity := func(s string) [][2]string { return [][2]string{{"severity", s}} }
	return []rule{
		{alert: "DiskAlmostFull", wait: 5 * time.Minute, labels: severity("page"),
			summary: "Less than 10 % of {{ $labels.instance }}'s disk is free",
			expr:    n("disk_free_bytes") + " / " + n("disk_bytes") + " < 0.1"},
		{alert: "MemoryAlmostFull", wait: 5 * time.Minute, labels: severity("page"),
			summary: "Less than 5 % of {{ $labels.instance }}'s memory is free",
			expr:    n("memory_available_bytes") + " / " + n("memory_bytes") + " < 0.05"},
		{alert: "ProcessorThrottled", wait: 10 * time.Minute, labels: severity("ticket"),
			summary: "{{ $labels.instance }} waits for its own processor limit a quarter of the time",
			expr:    "rate(" + n("cpu_throttled_seconds_total") + "[5m]) > 0.25"},
		{alert: "MemoryPressure", wait: 5 * time.Minute, labels: severity("ticket"),
			summary: "Tasks of {{ $labels.instance }} wait for memory a tenth of the time",
			expr:    "rate(" + n("pressure_memory_seconds_total") + "[5m]) > 0.1"},
		{alert: "FewFilesLeft", wait: 5 * time.Minute, labels: severity("ticket"),
			summary: "{{ $labels.instance }} has opened more than 80 % of the files it may",
			expr:    n("open_files") + " / " + n("open_files_limit") + " > 0.8"},
	}
}
