package dashboard

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/security"
	"github.com/tierkit/tierkit/metrics/slo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMetrics(t *testing.T) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	require.NoError(t, err)
	return m
}

func mustNew(t *testing.T, m *metrics.Metrics, o Options) *Dashboard {
	d, err := New(m, o)
	require.NoError(t, err)
	return d
}

// pageDataText is what a page reads of pageData.
type pageDataText struct {
	Times    []int64
	Charts   []chart
	Tiles    []Figure
	SLOs     []slo.Status
	Errors   []logs.ErrorGroup
	Servers  []string
	Cohorts  []audience.Cohort
	Topology Topology
}

func TestDashboardIsClosedToOthers(t *testing.T) {
	m := newMetrics(t)
	d := mustNew(t, m, Options{})
	for _, c := range []struct {
		peer, host string
		want       int
	}{
		{"127.0.0.1:1", "127.0.0.1:9090", 200},
		{"[::1]:1", "[::1]:9090", 200},
		{"127.0.0.1:1", "localhost:9090", 200},
		{"127.0.0.1:1", "rebound.example:9090", 403},
		{"192.0.2.7:1", "localhost", 403},
		{"192.0.2.7:1", "127.0.0.1", 403},
		{"nonsense", "127.0.0.1", 403},
	} {
		for _, path := range []string{"/", "/app.js", "/style.css", "/data"} {
			r := httptest.NewRequest("GET", path, nil)
			r.RemoteAddr, r.Host = c.peer, c.host
			rec := httptest.NewRecorder()
			d.ServeHTTP(rec, r)
			require.Equal(t, c.want, rec.Code, "%s %s %s", c.peer, c.host, path)
		}
	}
	open := mustNew(t, m, Options{Authorize: func(*http.Request) bool { return true }})
	rec := httptest.NewRecorder()
	open.ServeHTTP(rec, httptest.NewRequest("GET", "/nothing", nil))
	require.Equal(t, 404, rec.Code)
}

func TestDashboardHistory(t *testing.T) {
	m := newMetrics(t)
	web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	require.NoError(t, err)
	lines := []Value{{"a", 1}}
	d := mustNew(t, m, Options{Title: "T", History: 3,
		Panels: []Panel{{Title: "P", Unit: "x", Read: func() []Value {
			return lines
		}}},
		Events: func() []Event {
			return []Event{{At: time.Now(), Kind: "failure", Text: "<script>alert(1)</script>"}}
		},
		Topology: func() Topology { return Topology{Nodes: []Node{{ID: "n", State: "down"}}} }})
	read := func() (out pageDataText) {
		r := httptest.NewRequest("GET", "/data", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1"
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, r)
		require.NotContains(t, rec.Body.String(), "<script", "escaped even as JSON")
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &out))
		return out
	}
	points := func(c chart) string {
		var s []string
		for _, l := range c.Lines {
			p := l.Name + ":"
			for _, v := range l.Points {
				if v == nil {
					p += "-"
				} else {
					p += strconv.Itoa(int(*v))
				}
			}
			s = append(s, p)
		}
		return strings.Join(s, " ")
	}
	require.Equal(t, "", points(read().Charts[0]))
	d.sample(time.Now())
	require.Equal(t, "a:1", points(read().Charts[0]))
	lines = []Value{{"a", 2}, {"b", 5}}
	d.sample(time.Now())
	require.Equal(t, "a:12 b:-5", points(read().Charts[0]))
	lines = []Value{{"b", 6}}
	d.sample(time.Now())
	require.Equal(t, "a:12- b:-56", points(read().Charts[0]))
	d.sample(time.Now())
	require.Equal(t, "a:2-- b:566", points(read().Charts[0]))
	d.sample(time.Now())
	require.Equal(t, "b:666", points(read().Charts[0]), "a line that has gone leaves")
	d.sample(time.Now())
	web.Wrap(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	d.sample(time.Now())
	out := read()
	require.Len(t, out.Times, 3)
	require.Equal(t, "HTTP requests", out.Charts[1].Title)
	require.Greater(t, *out.Charts[1].Lines[0].Points[2], 0.0)
	require.Equal(t, "down", out.Topology.Nodes[0].State)
}

func TestDashboardSides(t *testing.T) {
	m := newMetrics(t)
	sec, err := security.New(m, security.Options{})
	require.NoError(t, err)
	_, err = slo.New(m, slo.Options{Name: "up", Objective: 0.9, Read: func() (uint64, uint64) { return 5, 10 }})
	require.NoError(t, err)
	log := logs.NewHandler(slog.NewTextHandler(io.Discard, nil), logs.HandlerOptions{Server: "web-1"})
	slog.New(log).Error("disk full", "err", "ENOSPC", "request_id", "r1")
	kept, err := audience.NewRetention(audience.RetentionOptions{})
	require.NoError(t, err)
	kept.Seen("ada", time.Now(), time.Now())
	d := mustNew(t, m, Options{Title: "T", Logs: log, Security: sec, Retention: kept, Tiles: func() []Figure {
		return []Figure{{"Revenue", 12.5, "EUR"}}
	},
		Panels: []Panel{{Title: "Own", PromQL: "own_total", Read: func() []Value { return nil }}}})
	call := func(method, target string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, nil)
		r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1"
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, r)
		return rec
	}
	var data pageDataText
	require.NoError(t, json.Unmarshal(call("GET", "/data").Body.Bytes(), &data))
	require.Equal(t, []Figure{{"Revenue", 12.5, "EUR"}}, data.Tiles)
	require.Equal(t, "up", data.SLOs[0].Name)
	require.Equal(t, 1, data.Errors[0].Count)
	require.Equal(t, []string{"web-1"}, data.Servers)
	require.Len(t, data.Cohorts, 1)

	var found []logs.Record
	for q, want := range map[string]int{"": 1, "id=r1": 1, "id=r2": 0,
		"level=ERROR&server=web-1&text=disk&last=1m&limit=5": 1, "to=2020-01-01T00:00:00Z": 0,
		"from=2020-01-01T00:00:00Z": 1} {
		require.NoError(t, json.Unmarshal(call("GET", "/logs?"+q).Body.Bytes(), &found))
		require.Len(t, found, want, q)
	}
	for _, q := range []string{"from", "to", "last", "limit"} {
		rec := call("GET", "/logs?"+q+"=soon")
		require.Equal(t, 400, rec.Code)
		require.Contains(t, rec.Body.String(), `"`+q+`"`)
	}
	require.Equal(t, "INFO\n", call("GET", "/level").Body.String())
	require.Equal(t, 403, call("POST", "/level?level=debug", "Sec-Fetch-Site", "cross-site").Code,
		"another site's form")
	require.Equal(t, "INFO\n", call("GET", "/level").Body.String())
	require.Equal(t, 200, call("POST", "/level?level=warn", "Sec-Fetch-Site", "same-origin").Code)
	require.Equal(t, slog.LevelWarn, log.Level().Level())
	require.Contains(t, call("GET", "/rules.yaml").Body.String(), "ErrorBudgetBurn")
	require.Contains(t, call("GET", "/grafana.json").Body.String(), `"expr": "own_total"`)
	for path, want := range map[string]string{"/debug/vars": "memstats", "/debug/pprof/": "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/cmdline": "dashboard"} {
		require.Contains(t, call("GET", path).Body.String(), want, path)
	}
	require.Equal(t, 404, call("GET", "/page/index.html").Code)

	before := sec.Counts()[security.AdminRefused]
	for _, path := range []string{"/", "/data", "/logs", "/debug/pprof/", "/grafana.json"} {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = "203.0.113.9:1"
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, r)
		require.Equal(t, 403, rec.Code, path)
	}
	require.Equal(t, before+5, sec.Counts()[security.AdminRefused])
}
