package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

// A real Prometheus scrapes the stack while it is played: every tier's series arrive, native histograms and exemplars
// among them, and the generated rules load and are evaluated without an error.
func TestPrometheusScrapesTheStack(t *testing.T) {
	exhaustive.Only(t)
	started := make(chan *assemble.Stack, 1)
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() {
		c := config{replay: "sample", duration: 14 * time.Second, rate: rate(120), started: func(s *assemble.Stack) {
			started <- s
		}}
		code <- c.run(&out, &out)
	}()
	s := <-started
	get := func(u string) []byte {
		res, err := http.Get(u)
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode, "%s: %s", u, b)
		return b
	}
	target, err := url.Parse(s.Addresses().Metrics)
	require.NoError(t, err)
	p := testserver.Prometheus(t, fmt.Sprintf(`
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: fullstack
    static_configs: [{targets: [%q]}]
`, target.Host), map[string][]byte{"rules.yaml": get(s.Addresses().Dashboard + "rules.yaml")})

	type sample struct {
		Metric map[string]string
		Value  [2]any
	}
	query := func(q string) (found []sample) {
		var answer struct {
			Status string
			Data   struct{ Result []sample }
		}
		require.NoError(t, json.Unmarshal(get(p.URL()+"/api/v1/query?query="+url.QueryEscape(q)), &answer))
		require.Equal(t, "success", answer.Status)
		return answer.Data.Result
	}
	for _, q := range []string{
		`up{job="fullstack"} == 1`,
		`sum(rate(fullstack_http_requests_total{server="edge",class="2xx"}[5s])) > 0`,
		// of the native histogram
		`histogram_quantile(0.99, sum(rate(fullstack_http_request_duration_seconds[5s]))) > 0`,
		`fullstack_cdn_hits_total > 0`, `fullstack_lb_backend_requests_total > 0`,
		`fullstack_queue_published_total > 0`, `fullstack_shard_routed_total > 0`,
		`fullstack_replica_node_reads_total > 0`, `fullstack_dns_queries_total > 0`,
		`fullstack_autoscale_instances > 0`, `fullstack_host_memory_bytes > 0`,
		`fullstack_users_daily > 0`, `fullstack_security_events_total{kind="login-failed"} >= 0`,
		`fullstack_slo_burn_rate >= 0`,
		`fullstack_slo:bad_ratio:rate5m{slo="available"} >= 0`, // a recording rule has been evaluated
	} {
		for deadline := time.Now().Add(30 * time.Second); len(query(q)) == 0; time.Sleep(200 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline), "no sample of %s", q)
		}
	}
	lint := exec.Command(testserver.Binary(t, "promtool"), "check", "metrics")
	lint.Stdin = bytes.NewReader(get(s.Addresses().Metrics))
	problems, err := lint.CombinedOutput()
	for line := range strings.Lines(string(problems)) {
		// go_ are client_golang's own
		require.True(t, strings.HasPrefix(line, "go_"),
			"the names of every package follow Prometheus's conventions: %s", line)
	}
	if len(problems) == 0 {
		require.NoError(t, err)
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Name  string
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(get(p.URL()+"/api/v1/rules"), &rules))
	require.Len(t, rules.Data.Groups, 3)
	for _, g := range rules.Data.Groups {
		for _, r := range g.Rules {
			require.NotEqual(t, "err", r.Health, "%s: %s", r.Name, r.LastError)
		}
	}
	// The generated dashboard's expressions are Prometheus's language, and name series that exist.
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(get(s.Addresses().Dashboard+"grafana.json"), &board))
	empty := []string{}
	for _, panel := range board.Panels {
		for _, x := range panel.Targets {
			if len(query(x.Expr)) == 0 {
				empty = append(empty, panel.Title)
			}
		}
	}
	// errors and sizes of what did not happen have no samples yet
	require.Less(t, len(empty), 25, strings.Join(empty, ", "))
	require.Greater(t, len(board.Panels), 60)
	<-code // its books are judged elsewhere: here a second server and hundreds of queries share the processors
}
