package slo_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/host"
	"github.com/tierkit/tierkit/metrics/security"
	"github.com/tierkit/tierkit/metrics/slo"
)

func newMetrics(t *testing.T, namespace string) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true, Namespace: namespace})
	require.NoError(t, err)
	return m
}

// promtool, which comes with Prometheus, judges the generated rules and the expressions of the generated dashboard.
func TestRulesAndDashboardSatisfyPromtool(t *testing.T) {
	m := newMetrics(t, "shop")
	_, err := m.HTTP(metrics.HTTPOptions{})
	require.NoError(t, err)
	type stats struct {
		Requests uint64 `metric:"requests_total,counter,Requests"`
		Read     uint64 `metric:"read_bytes_total,counter,Bytes read"`
		Load     int    `metric:"load,gauge,Load"`
	}
	for _, node := range []string{"a", "b"} {
		require.NoError(t, m.Register(metrics.WithLabels(map[string]string{"node": node},
			metrics.Collect("shop_lb", func() stats { return stats{} }))))
	}
	_, err = host.New(m)
	require.NoError(t, err)
	_, err = security.New(m, security.Options{})
	require.NoError(t, err)
	_, err = slo.New(m, slo.Options{Name: "available", Objective: 0.999,
		Read: func() (uint64, uint64) { return 0, 0 }})
	require.NoError(t, err)
	_, err = slo.New(m, slo.Options{Name: "short", Objective: 0.9, Window: 24 * time.Hour,
		Read: func() (uint64, uint64) { return 0, 0 }})
	require.NoError(t, err)
	rules := slo.Rules(m)
	require.Equal(t, 2+1, strings.Count(string(rules), `alert: "ErrorBudgetBurn"`),
		"windows of a day and more do not fit into a day")

	b, err := slo.Grafana(m, "Shop", slo.Panel{Title: "Own", Unit: "ms", PromQL: "shop_foreign"})
	require.NoError(t, err)
	exprs := grafanaExprs(t, b)
	require.Contains(t, exprs, "shop_foreign")
	require.Contains(t, exprs, "rate(shop_lb_requests_total[$__rate_interval])")
	require.Contains(t, exprs, "100 * rate(shop_host_cpu_busy_seconds_total[$__rate_interval]) / shop_host_cpus")
	require.Greater(t, len(exprs), 15)
	var asRules strings.Builder
	asRules.WriteString("groups:\n  - name: panels\n    rules:\n")
	slices.Sort(exprs)
	for _, e := range slices.Compact(exprs) {
		require.NotRegexp(t, `\[\d`, e, "a fixed range is empty at a longer scrape interval")
		e = strings.ReplaceAll(e, "$__rate_interval", "4m") // as Grafana does
		asRules.WriteString("      - record: x\n        expr: " + strconv.QuoteToASCII(e) + "\n        labels: {n: " +
			strconv.QuoteToASCII(e) + "}\n")
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

func grafanaExprs(t *testing.T, b []byte) (exprs []string) {
	var d struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &d))
	at := map[[2]int]string{}
	for i, p := range d.Panels {
		require.Equal(t, i+1, p.ID)
		require.Empty(t, at[[2]int{p.GridPos.X, p.GridPos.Y}], "%s lies on another panel", p.Title)
		at[[2]int{p.GridPos.X, p.GridPos.Y}] = p.Title
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24)
		for _, x := range p.Targets {
			exprs = append(exprs, x.Expr)
		}
	}
	return exprs
}
