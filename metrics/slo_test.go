package metrics

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
)

// A day of one event a second: what the windows see, when the alerts fire and when they stop.
func TestBurnRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{NoHost: true, NoRuntime: true})
		var good, total atomic.Uint64
		o, err := m.SLO(SLO{Name: "checkout", Objective: 0.99, Read: func() (uint64, uint64) {
			return good.Load(), total.Load()
		}})
		require.NoError(t, err)
		require.Equal(t, SLOStatus{Name: "checkout", Objective: 0.99, Good: 1, BudgetLeft: 1}, o.Status(),
			"nothing has happened yet")
		live := func(d time.Duration, bad int) { // of 100 events
			for i := range int(d / time.Second) {
				time.Sleep(time.Second)
				total.Add(1)
				if i%100 >= bad {
					good.Add(1)
				}
				if i%15 == 0 {
					o.Status() // as a scraper does
				}
			}
		}
		live(24*time.Hour, 0)
		require.Equal(t, 1.0, o.Status().BudgetLeft)
		live(10*time.Minute, 50) // an outage: 300 of 3600 events of the last hour
		s := o.Status()
		require.InDelta(t, 300.0/3600/0.01, s.Burn1h, 0.1)
		require.InDelta(t, 300.0/(6*3600)/0.01, s.Burn6h, 0.05)
		require.Empty(t, s.Alert, "8.3 in an hour is below 14.4")
		live(10*time.Minute, 50)
		s = o.Status()
		require.InDelta(t, 16.7, s.Burn1h, 0.1)
		require.Equal(t, "page", s.Alert)
		require.InDelta(t, 1-600.0/(24*3600+1200)/0.01, s.BudgetLeft, 0.01, "over the time since the start")
		live(6*time.Minute, 0)
		require.Empty(t, o.Status().Alert, "the short window ends the alert soon after the outage")
		live(4*time.Hour, 2) // twice what the budget allows, for long
		require.Empty(t, o.Status().Alert)
		live(20*time.Hour, 4)
		require.Equal(t, "ticket", o.Status().Alert, "a slow leak")
		require.Less(t, o.Status().BudgetLeft, 0.0)
	})
}

func TestSLOOverHTTP(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true, Namespace: "shop"})
	h := m.HTTP(HTTPOptions{Server: "web"})
	status := 200
	srv := h.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	for i := range 100 {
		if status = 200; i < 3 {
			status = 500
		}
		srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	_, err := m.SLO(SLO{Name: "available", Objective: 0.999, Read: h.Availability()})
	require.NoError(t, err)
	_, err = m.SLO(SLO{Name: "fast", Objective: 0.95, Read: h.Latency(time.Minute)})
	require.NoError(t, err)
	good, total := h.Availability()()
	require.EqualValues(t, []uint64{97, 100}, []uint64{good, total})
	good, total = h.Latency(time.Minute)()
	require.EqualValues(t, []uint64{100, 100}, []uint64{good, total})
	out := scrape(t, m)
	require.Contains(t, out, `shop_slo_good_events_total{slo="available"} 97`)
	require.Contains(t, out, `shop_slo_events_total{slo="fast"} 100`)
	require.Contains(t, out, `shop_slo_burn_rate{slo="fast",window="6h"} 0`)

	for name, s := range map[string]SLO{
		"SLO.Name":      {Name: "Bad Name", Objective: 0.9, Read: h.Availability()},
		"SLO.Objective": {Name: "x", Objective: 1, Read: h.Availability()},
		"SLO.Window":    {Name: "x", Objective: 0.9, Window: time.Minute, Read: h.Availability()},
		"SLO.Read":      {Name: "x", Objective: 0.9},
		"already":       {Name: "fast", Objective: 0.9, Read: h.Availability()},
	} {
		_, err := m.SLO(s)
		require.ErrorContains(t, err, name)
	}
}

// promtool, which comes with Prometheus, judges the generated rules and the expressions of the generated dashboard.
func TestRulesAndDashboardSatisfyPromtool(t *testing.T) {
	m := everything(t)
	m.Security(SecurityOptions{})
	_, err := m.SLO(SLO{Name: "available", Objective: 0.999, Read: func() (uint64, uint64) { return 0, 0 }})
	require.NoError(t, err)
	_, err = m.SLO(SLO{Name: "short", Objective: 0.9, Window: 24 * time.Hour, Read: func() (uint64, uint64) {
		return 0, 0
	}})
	require.NoError(t, err)
	m.o.NoHost = false // its rules too
	rules := m.Rules()
	require.Equal(t, 4+2, strings.Count(string(rules), `alert: "ErrorBudgetBurn"`),
		"windows of a day and more do not fit into a day")

	b, err := m.Grafana("Shop", Panel{Title: "Own", Unit: "ms", PromQL: "shop_foreign"})
	require.NoError(t, err)
	exprs := grafanaExprs(t, b)
	require.Contains(t, exprs, "shop_foreign")
	require.Contains(t, exprs, "rate(shop_lb_requests_total[1m])")
	require.Greater(t, len(exprs), 15)
	var asRules strings.Builder
	asRules.WriteString("groups:\n  - name: panels\n    rules:\n")
	slices.Sort(exprs)
	for _, e := range slices.Compact(exprs) {
		asRules.WriteString("      - record: x\n        expr: " + quoteYAML(e) + "\n        labels: {n: " +
			quoteYAML(e) + "}\n")
	}
	promtool := testserver.Binary(t, "promtool")
	for name, text := range map[string]string{"rules.yaml": string(rules), "panels.yaml": asRules.String()} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		out, err := exec.Command(promtool, "check", "rules", path).CombinedOutput()
		require.NoError(t, err, "%s\n%s", out, text)
		require.Contains(t, string(out), "SUCCESS")
	}
}
