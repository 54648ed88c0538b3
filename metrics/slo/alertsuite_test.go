package slo

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/race"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

var ruleWindows = []int{300, 900, 1800, 3600, 7200, 21600, 86400, 3 * 86400}

// verdict of one rule set over one scenario.
type verdict struct {
	silent, late, falsePage, falseTicket, stuck, silentTicket bool
	delay                                                     int // minutes from the fault to the page; -1 none
	pages                                                     int // how often a page began
	detail                                                    string
}

func judge(w *world, x truth, alerts []alert, tb *table) (v verdict) {
	v.delay = -1
	page, ticket := make([]bool, tb.n), make([]bool, tb.n)
	note := ""
	for i := range alerts {
		f := alerts[i].firing(tb)
		for m := range f {
			if t := m * 60; f[m] && len(note) < 80 &&
				(t < x.from || alerts[i].severity == "page" && (x.noPage || t > x.pageGone)) &&
				(m == 0 || !f[m-1] || t <= x.pageGone+60) {
				note += fmt.Sprintf(" %s@%d", alerts[i].name, m)
			}
			if f[m] && alerts[i].severity == "page" {
				page[m] = true
			} else if f[m] {
				ticket[m] = true
			}
		}
	}
	firstPage, firstAny := -1, -1
	for m := range tb.n {
		t := m * 60
		if page[m] && (m == 0 || !page[m-1]) {
			v.pages++
		}
		inside := t >= x.from
		if page[m] && inside && firstPage < 0 && t <= x.pageGone {
			firstPage = t
		}
		if (page[m] || ticket[m]) && inside && firstAny < 0 && t <= x.ticketGone {
			firstAny = t
		}
		if page[m] && (!inside || x.noPage) {
			v.falsePage = true
		}
		if ticket[m] && (!inside || x.noTicket) {
			v.falseTicket = true
		}
		if page[m] && inside && !x.noPage && t > x.pageGone || ticket[m] && inside && !x.noTicket && t > x.ticketGone {
			v.stuck = true
		}
	}
	if firstPage >= 0 {
		v.delay = (firstPage - w.start) / 60
	}
	if x.pageBy >= 0 {
		v.silent = firstPage < 0
		v.late = firstPage > (x.pageBy+59)/60*60
	}
	if x.ticketBy >= 0 && x.pageBy < 0 {
		v.silentTicket = firstAny < 0
		v.late = firstAny > (x.ticketBy+59)/60*60
	}
	v.detail = fmt.Sprintf("start %d end %d pageBy %d ticketBy %d firstPage %d firstAny %d pages %d", w.start/60,
		w.end/60, x.pageBy/60, x.ticketBy/60, firstPage/60, firstAny/60, v.pages) + note
	return v
}

// values writes samples in promtool's notation: runs of equal steps are folded, failed scrapes are stale, then missing.
func values(xs []sample, step int) string {
	var b strings.Builder
	b.WriteString("_") // time 0
	failed := false
	for i := 0; i < len(xs); {
		if !xs[i].ok {
			if !failed {
				b.WriteString(" stale")
				failed = true
				i++
				continue
			}
			j := i
			for j < len(xs) && !xs[j].ok {
				j++
			}
			fmt.Fprintf(&b, " _x%d", j-i)
			i = j
			continue
		}
		failed = false
		j := i + 1
		if j < len(xs) && xs[j].ok {
			d := xs[j].v - xs[i].v
			for j+1 < len(xs) && xs[j+1].ok && xs[j+1].v-xs[j].v == d {
				j++
			}
			if j-i >= 3 {
				fmt.Fprintf(&b, " %s%+gx%d", strconv.FormatFloat(xs[i].v, 'f', -1, 64), d, j-i)
				i = j + 1
				continue
			}
		}
		b.WriteString(" " + strconv.FormatFloat(xs[i].v, 'f', -1, 64))
		i++
	}
	return b.String()
}

// allScenarios returns one world for each combination.
func allScenarios(seed uint64) (out []scenario) {
	for _, o := range objectives {
		for _, r := range rates {
			for _, p := range patterns {
				for _, f := range faults {
					for _, sc := range []int{15, 60} {
						out = append(out, scenario{o, r, p, f, sc, seed})
					}
				}
			}
		}
	}
	return out
}

// alertsOf returns the product's alerts for an objective named x.
func alertsOf(t *testing.T, objective float64) (*SLO, []alert) {
	s, err := New(newMetrics(t, ""), Options{Name: "x", Objective: objective,
		Read: func() (uint64, uint64) { return 0, 0 }})
	require.NoError(t, err)
	return s, s.alerts()
}

// Over generated worlds, an operator is paged for each outage that spends the budget, in time, and never for anything
// else. The expectation (alerttruth_test.go) is computed from the outage and the budget alone.
func TestAlertsAreNeitherSilentNorFalse(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates weeks")
	}
	t.Parallel()
	seed := uint64(1)
	if exhaustive.On() { // other worlds each week
		year, week := time.Now().ISOWeek()
		seed = uint64(year*100 + week)
	}
	every := uint64(exhaustive.N(t, 1, 10)) // of 100 worlds
	if race.Enabled {
		every = 1 // the worlds share nothing; CI simulates all of them without the detector
	}
	byObjective := map[float64][]alert{}
	for _, o := range objectives {
		_, byObjective[o] = alertsOf(t, o)
	}
	var worlds, silent, late, falsePage, falseTicket, stuck atomic.Int64
	limit := make(chan struct{}, 4)
	var all sync.WaitGroup
	for _, sc := range allScenarios(seed) {
		h := fnv.New64a()
		h.Write([]byte(sc.ID()))
		if h.Sum64()%100 >= every {
			continue
		}
		worlds.Add(1)
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			w := simulate(sc)
			x := w.truth()
			v := judge(w, x, byObjective[sc.Objective], newTable(w, ruleWindows))
			for _, c := range []struct {
				bad  bool
				n    *atomic.Int64
				what string
			}{{v.silent || v.silentTicket, &silent, "silent"}, {v.late, &late, "late"},
				{v.falsePage, &falsePage, "false page"}, {v.falseTicket, &falseTicket, "false ticket"},
				{v.stuck, &stuck, "stuck"}} {
				if c.bad {
					c.n.Add(1)
					t.Logf("%s: %s: %s (%s)", sc.ID(), c.what, v.detail, x.why)
				}
			}
		})
	}
	all.Wait()
	n := worlds.Load()
	t.Logf("%d worlds: %d silent, %d late, %d false pages, %d false tickets, %d stuck", n, silent.Load(), late.Load(),
		falsePage.Load(), falseTicket.Load(), stuck.Load())
	require.Greater(t, n, int64(30))
	// Chance has its part in worlds with a handful of requests an hour: one in four hundred.
	require.LessOrEqual(t, silent.Load(), n/400)
	require.LessOrEqual(t, late.Load(), 1+n/200)
	require.LessOrEqual(t, falsePage.Load(), n/400)
	require.LessOrEqual(t, falseTicket.Load(), n/400)
	require.LessOrEqual(t, stuck.Load(), 1+n/200)
}

// promtool evaluates the generated rules over a whole world exactly as the simulation does: each change of each alert,
// minute by minute. It takes a minute or two for one, so each week has its own.
func TestPromtoolAgreesWithTheSimulation(t *testing.T) {
	exhaustive.Only(t)
	if race.Enabled {
		t.Skip("promtool does the work; CI runs this without the race detector")
	}
	promtool := testserver.Binary(t, "promtool")
	worlds := []scenario{{0.9, 1, "daily", "total20m", 60, 1}, {0.99, 0.01, "constant", "onebad", 60, 1},
		{0.999, 100, "constant", "dns60m", 60, 1}, {0.9999, 1, "bursty", "flap", 60, 1}}
	_, week := time.Now().ISOWeek()
	sc := worlds[week%len(worlds)]
	t.Log(sc.ID())
	w := simulate(sc)
	promtoolTest(t, promtool, sc, w, newTable(w, ruleWindows))
}

// promtoolTest writes a test file with an assertion at each change of each alert and every four hours, and runs it.
func promtoolTest(t *testing.T, promtool string, sc scenario, w *world, tb *table) {
	s, alerts := alertsOf(t, sc.Objective)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), Rules(s.m), 0o600))
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n  - interval: %ds\n", sc.Scrape)
	b.WriteString("    input_series:\n")
	series := func(name, labels string, xs []sample) {
		fmt.Fprintf(&b, "      - series: '%s{slo=\"x\",%s}'\n        values: '%s'\n", name, labels,
			values(xs, sc.Scrape))
	}
	for k, in := range w.series {
		l := fmt.Sprintf("instance=\"i%d\"", k)
		series("slo_bad_events_total", l, in.bad)
		series("slo_events_total", l, in.total)
	}
	for g, p := range w.probe {
		series("slo_probe_success", fmt.Sprintf("region=\"r%d\"", g), p)
	}
	b.WriteString("    alert_rule_test:\n")
	firing := map[string][]int{} // by name, the alerts of that name
	for i, a := range alerts {
		firing[a.name] = append(firing[a.name], i)
	}
	for name, is := range firing {
		writeAssertions(&b, name, alerts, is, tb)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "test.yaml"), []byte(b.String()), 0o600))
	cmd := exec.Command(promtool, "test", "rules", "test.yaml")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func writeAssertions(b *strings.Builder, name string, alerts []alert, is []int, tb *table) {
	fires := map[int][]bool{}
	at := map[int]bool{}
	for _, i := range is {
		f := alerts[i].firing(tb)
		fires[i] = f
		changes := 0
		for m := 11; m < tb.n && changes < 40; m++ {
			if f[m] != f[m-1] {
				at[m], at[m-1] = true, true
				changes++
			}
		}
	}
	for m := 10; m < tb.n; m += 240 {
		at[m] = true
	}
	for m := range tb.n {
		if !at[m] {
			continue
		}
		var expected []string
		for _, i := range is {
			if a := alerts[i]; fires[i][m] {
				expected = append(expected, fmt.Sprintf(
					"{exp_labels: {severity: %s, slo: x}, exp_annotations: {summary: %q, description: %q}}",
					a.severity, a.summary, a.description))
			}
		}
		fmt.Fprintf(b, "      - {eval_time: %dm, alertname: %s, exp_alerts: [%s]}\n", m, name,
			strings.Join(expected, ", "))
	}
}
