package metrics

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDashboardIsClosedToOthers(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true})
	d := m.Dashboard(DashboardOptions{})
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
	open := m.Dashboard(DashboardOptions{Authorize: func(*http.Request) bool { return true }})
	rec := httptest.NewRecorder()
	open.ServeHTTP(rec, httptest.NewRequest("GET", "/nothing", nil))
	require.Equal(t, 404, rec.Code)
}

func TestDashboardHistory(t *testing.T) {
	m := New(Options{NoHost: true, NoRuntime: true})
	web := m.HTTP(HTTPOptions{Server: "web"})
	lines := []Value{{"a", 1}}
	d := m.Dashboard(DashboardOptions{Title: "T", History: 3, Panels: []Panel{{Title: "P", Unit: "x", Read: func() []Value { return lines }}},
		Events:   func() []Event { return []Event{{time.Now(), "failure", "<script>alert(1)</script>"}} },
		Topology: func() Topology { return Topology{Nodes: []Node{{ID: "n", State: "down"}}} }})
	read := func() (out dashboardData) {
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
