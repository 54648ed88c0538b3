package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/hooktest"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/security"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// data asks a dashboard for its data as generic JSON.
func data(t *testing.T, d *Dashboard) map[string]any {
	r := httptest.NewRequest("GET", "/data", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1"
	rec := httptest.NewRecorder()
	d.ServeHTTP(rec, r)
	require.Equal(t, http.StatusOK, rec.Code)
	var out map[string]any
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &out))
	return out
}

// What is unknown is null in the data, never a number; JSON has no NaN.
func TestUnknownIsNull(t *testing.T) {
	nan := math.NaN()
	d := mustNew(t, newMetrics(t), Options{
		Tiles: func() []Figure { return []Figure{{Name: "Revenue", Value: nan, Unit: "EUR"}} },
		Topology: func() Topology {
			return Topology{Nodes: []Node{{ID: "a", State: StateNew, Figures: []Figure{{"lag", math.Inf(1), "s"}},
				Actions: []Action{{Name: "kill"}}, Since: time.Unix(1, 0).UTC()}},
				Edges: []Edge{{From: "a", To: "b", Rate: nan, Errors: 1, Probes: 4}}}
		},
		Panels: []Panel{{Title: "P", Read: func() []Value { return []Value{{"known", 1}, {"unknown", nan}} }}}})
	d.sample(time.Now())
	out := data(t, d)
	require.Nil(t, out["tiles"].([]any)[0].(map[string]any)["value"])
	topology := out["topology"].(map[string]any)
	node := topology["nodes"].([]any)[0].(map[string]any)
	require.Equal(t, "1970-01-01T00:00:01Z", node["since"])
	require.Equal(t, "new", node["state"])
	require.Nil(t, node["figures"].([]any)[0].(map[string]any)["value"])
	require.Equal(t, map[string]any{"name": "kill", "label": "kill", "active": false, "progress": nil},
		node["actions"].([]any)[0])
	require.Equal(t, map[string]any{"from": "a", "to": "b", "kind": "traffic", "rate": nil, "errors": 1.0,
		"probes": 4.0},
		topology["edges"].([]any)[0])
	lines := out["charts"].([]any)[0].(map[string]any)["lines"].([]any)
	require.Len(t, lines, 1, "a line without a value is none")
}

func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics(t)
		web, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
		require.NoError(t, err)
		mux := http.NewServeMux()
		mux.HandleFunc("GET /fast", func(http.ResponseWriter, *http.Request) { time.Sleep(10 * time.Millisecond) })
		mux.HandleFunc("GET /slow", func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		mux.HandleFunc("GET /broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		h := web.Wrap(mux)
		d := mustNew(t, m, Options{})
		get := func(path string, n int) {
			for range n {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
			}
		}
		get("/fast", 1)
		d.sample(time.Now())
		out := d.data().Routes
		require.Len(t, out, 1)
		require.Nil(t, out[0].Rate, "one sample has nothing to differ from")
		require.Nil(t, out[0].P50)
		get("/fast", 300) // 3 s
		get("/slow", 6)   // 6 s
		get("/broken", 2)
		time.Sleep(time.Second)
		d.sample(time.Now())
		out = d.data().Routes
		require.Len(t, out, 3)
		fast, slow, broken := out[0], out[1], out[2]
		require.Equal(t, []string{"GET /fast", "GET /slow", "GET /broken"}, []string{fast.Route, slow.Route,
			broken.Route}, "the busiest first")
		require.InDelta(t, 30, *fast.Rate, 1e-9)
		require.EqualValues(t, 301, fast.Requests)
		require.Zero(t, *fast.Errors)
		require.InEpsilon(t, 10, *fast.P50, 0.05)
		require.Equal(t, 1.0, *fast.Apdex)
		require.InEpsilon(t, 1000, *slow.P99, 0.05)
		require.Equal(t, 0.5, *slow.Apdex, "tolerated")
		require.InDelta(t, 0.2, *broken.Errors, 1e-9)
		require.Zero(t, *broken.Apdex, "errors frustrate, however fast")
		for range 9 {
			time.Sleep(30 * time.Second)
			d.sample(time.Now())
		}
		quiet := d.data().Routes
		require.Len(t, quiet, 3)
		require.Zero(t, *quiet[0].Rate, "the window is a minute")
		require.Nil(t, quiet[0].P50, "no requests: unknown, not 0")
		require.Nil(t, quiet[0].Apdex)
		require.Len(t, quiet[0].Trend, 9)
	})
}

func TestIncidentsAreJoined(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	events := []Event{
		{At: at(1), ID: "i1", Phase: PhaseInjected, Target: "edge1", Text: "edge1 is killed"},
		{At: at(2), Text: "a deploy"},
		{At: at(3), ID: "i1", Phase: PhaseNoticed, Text: "edge1 does not answer", Felt: &Felt{Errors: 1}},
		{At: at(4), ID: "i2", Phase: PhaseNoticed, Target: "db2", Text: "db2 is slow"},
		{At: at(5), ID: "i1", Phase: PhaseNoticed, Text: "again"},
		{At: at(6), ID: "i1", Phase: PhaseMended, Text: "traffic moved", Felt: &Felt{Errors: 3, P99: time.Second}},
		{At: at(9), ID: "i1", Phase: PhaseRestored, Text: "edge1 is back"},
	}
	got := joinIncidents(events)
	require.Len(t, got, 2)
	require.Equal(t, "edge1", got[0].Target)
	require.Equal(t, "edge1 is killed", got[0].Text)
	for i, p := range []*time.Time{got[0].Injected, got[0].Noticed, got[0].Mended, got[0].Restored} {
		require.Equal(t, []time.Time{at(1), at(3), at(6), at(9)}[i], *p)
	}
	require.EqualValues(t, 3, got[0].Felt.Errors)
	require.Nil(t, got[1].Mended)
	require.Empty(t, joinIncidents(nil))
}

func TestActions(t *testing.T) {
	m := newMetrics(t)
	sec, err := security.New(m, security.Options{})
	require.NoError(t, err)
	const secret = "0123456789abcdef"
	var did []string
	d := mustNew(t, m, Options{Security: sec, Secret: secret, Logger: quiet(),
		Actions: func() []Action { return []Action{{Name: "burst"}} },
		Topology: func() Topology {
			return Topology{Nodes: []Node{{ID: "edge1",
				Actions: []Action{{Name: "kill"}, {Name: "fail"}, {Name: "panic"}}},
				{ID: "edge2"}}}
		},
		Act: func(_ context.Context, target, action string) error {
			switch action {
			case "fail":
				return errors.New("it is dead already")
			case "panic":
				panic("boom")
			}
			did = append(did, target+"/"+action)
			return nil
		}})
	post := func(method, target, action string, header ...string) (int, string) {
		r := httptest.NewRequest(method, "/act", strings.NewReader(url.Values{"target": {target},
			"action": {action}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1"
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, r)
		return rec.Code, rec.Body.String()
	}
	for _, c := range []struct {
		target, action string
		want           int
	}{{"edge1", "kill", 204}, {"", "burst", 204}, {"edge2", "kill", 404}, {"", "kill", 404}, {"edge1", "burst", 404},
		{"edge1", "fail", 409}, {"edge1", "panic", 409}} {
		code, body := post("POST", c.target, c.action, "X-Dashboard-Secret", secret)
		require.Equal(t, c.want, code, "%s/%s: %s", c.target, c.action, body)
	}
	require.Equal(t, []string{"edge1/kill", "/burst"}, did)
	code, _ := post("POST", "edge1", "kill")
	require.Equal(t, 403, code, "without the secret")
	code, _ = post("POST", "edge1", "kill", "X-Dashboard-Secret", secret+"0")
	require.Equal(t, 403, code)
	code, _ = post("POST", "edge1", "kill", "X-Dashboard-Secret", secret, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, 403, code, "another site's form")
	code, _ = post("GET", "edge1", "kill", "X-Dashboard-Secret", secret)
	require.Equal(t, 405, code)
	require.Len(t, did, 2)
	require.EqualValues(t, 3, sec.Counts()[security.AdminRefused])
}

// Each mutation of valid options is refused with the name of the field.
func TestOptionsAreChecked(t *testing.T) {
	m := newMetrics(t)
	for field, o := range map[string]Options{
		"Interval":    {Interval: -1},
		"RouteWindow": {RouteWindow: -1},
		"Apdex":       {Apdex: -1},
		"History":     {History: -1},
		"Secret":      {Act: func(context.Context, string, string) error { return nil }, Secret: "short"},
		"Panels[0]":   {Panels: []Panel{{Title: "no Read"}}},
	} {
		_, err := New(m, o)
		require.ErrorContains(t, err, "Options."+field)
	}
}

// Functions of the application that panic, end their goroutine or block cost their own part of the page.
func TestBrokenFunctionsOfTheApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		blocked := make(chan struct{})
		d := mustNew(t, newMetrics(t), Options{Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Topology: func() Topology { panic("topology") }, Tiles: func() []Figure { panic("tiles") },
			Events: func() []Event { panic("events") }, Actions: func() []Action { panic("actions") },
			Panels: []Panel{
				{Title: "blocks", Read: func() []Value { <-blocked; return nil }},
				{Title: "panics", Read: func() []Value { panic("panel") }},
				{Title: "works", Read: func() []Value { return []Value{{"v", 1}} }},
			}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(10*time.Second + time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		out := d.data()
		require.GreaterOrEqual(t, len(out.Charts[2].Lines[0].Points), 9)
		require.Empty(t, out.Topology.Nodes)
		close(blocked)
		for _, what := range []string{"panel panics", "panel blocks", "Topology", "Tiles", "Events", "Actions"} {
			require.Equal(t, 1, strings.Count(log.String(), `function="`+what+`"`)+
				strings.Count(log.String(), "function="+what+" "), "%s is logged once a minute: %s", what, log.String())
		}
	})
}

// A panel of the application cannot hold up the other charts, the page, or the end of Run.
func TestPanelCannotHoldUpTheDashboard(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		d := mustNew(t, newMetrics(t), Options{Logger: quiet(), Panels: []Panel{
			{Title: "bad", Read: func() []Value { misbehave(); return nil }},
			{Title: "good", Read: func() []Value { return []Value{{"v", 1}} }}}})
		ctx, cancel := context.WithCancel(context.Background())
		serve := func() {
			r := httptest.NewRequest("GET", "/data", nil)
			r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1"
			d.ServeHTTP(httptest.NewRecorder(), r)
		}
		return hooktest.Subject{Object: d, Trigger: func() { _ = d.Run(ctx) }, Works: func() error {
			before := len(d.data().Times)
			time.Sleep(5 * time.Second)
			out := d.data()
			if len(out.Times) < before+3 {
				return errors.New("no new points")
			}
			if line := out.Charts[1].Lines; len(line) == 0 || line[0].Points[len(out.Times)-1] == nil {
				return errors.New("the other chart has a gap")
			}
			return nil
		}, Methods: map[string]func(){"ServeHTTP": serve}, Leave: []string{"Run"}, Close: cancel}
	})
}
