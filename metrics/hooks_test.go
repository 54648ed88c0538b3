package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/hooktest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// A collector cannot hold up a scrape: the others' series are there within the timeout.
func TestCollectorCannotHoldUpAScrape(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		m := mustNew(t, Options{NoRuntime: true, Timeout: time.Second, Logger: quiet})
		require.NoError(t, m.Register(collectorFunc(func(s *Scrape) { s.Gauge("good", "Good", 1) })))
		require.NoError(t, m.Register(collectorFunc(func(s *Scrape) {
			misbehave()
			s.Gauge("bad", "Bad", 1)
		})))
		return hooktest.Subject{Object: m, Trigger: func() { m.Scrape("") }, Works: func() error {
			start := time.Now()
			page, _ := m.Scrape("")
			switch took := time.Since(start); {
			case took > time.Second:
				return errors.New("the scrape took " + took.String())
			case !strings.Contains(string(page), "good 1\n"):
				return errors.New("the others' series are missing: " + string(page))
			}
			return nil
		}, Methods: map[string]func(){
			"Register": func() { _ = m.Register(collectorFunc(func(*Scrape) {})) },
			"Scrape":   func() { m.Scrape("") },
			"HTTP":     func() { _, _ = m.HTTP(HTTPOptions{}) },
			"Client":   func() { _, _ = m.Client("x", nil) },
			"Stats":    func() { m.Stats() }, "Collectors": func() { m.Collectors() },
			"Name": func() { m.Name("x") }, "Namespace": func() { m.Namespace() },
			"Handler": func() { m.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)) },
		}, Close: func() {}}
	})
}

// A check cannot hold up the others, nor the answers to a platform.
func TestHealthCheckCannotHoldUpReadiness(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		h := NewHealth(HealthOptions{})
		h.Started()
		h.Check("bad", func(context.Context) error { misbehave(); return nil })
		h.Check("good", func(context.Context) error { return nil })
		ask := func(x http.Handler) int {
			rec := httptest.NewRecorder()
			x.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			return rec.Code
		}
		return hooktest.Subject{Object: h, Trigger: func() { h.Failures(context.Background()) }, Works: func() error {
			start := time.Now()
			if ask(h.Live()) != 200 || ask(h.Startup()) != 200 {
				return errors.New("neither alive nor started")
			}
			failed := h.Failures(context.Background())
			if failed["good"] != "" || time.Since(start) > 3*time.Second {
				return errors.New("the good check failed or was late: " + failed["good"])
			}
			return nil
		}, Methods: map[string]func(){
			"Check": func() { h.Check("other", func(context.Context) error { return nil }) }, "Started": h.Started,
			"Drain": h.Drain, "Undrain": h.Undrain, "Failures": func() { h.Failures(context.Background()) },
			"Live": func() {
				ask(h.Live())
			}, "Startup": func() { ask(h.Startup()) }, "Ready": func() { ask(h.Ready()) },
		}, Close: func() {}}
	})
}

// The hook that names routes belongs to its own request; others are served.
func TestRouteHookCannotHoldUpOthers(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		m := mustNew(t, Options{NoRuntime: true, Logger: quiet})
		h := mustHTTP(t, m, HTTPOptions{Route: func(r *http.Request) string { misbehave(); return "/x" }})
		mux := http.NewServeMux()
		mux.HandleFunc("GET /good", func(http.ResponseWriter, *http.Request) {})
		srv := h.Wrap(mux)
		get := func(path string) { srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)) }
		return hooktest.Subject{Object: h, Trigger: func() { get("/hidden") }, Works: func() error {
			before := h.Stats().Requests
			get("/good")
			if page, _ := m.Scrape(""); h.Stats().Requests != before+1 || !strings.Contains(string(page), "GET /good") {
				return errors.New("a request of another route is not counted")
			}
			return nil
		}, Methods: map[string]func(){
			"Stats": func() { h.Stats() }, "Routes": func() { h.Routes() }, "Wrap": func() { h.Wrap(mux) },
			"Availability": func() { h.Availability()() }, "Latency": func() { h.Latency(time.Second)() },
		}, Leave: []string{"Collect"}, Close: func() {}}
	})
}

// What is not valid is refused with the name of the field; a second sample of one name and labels is refused, too.
func TestOptionsAreChecked(t *testing.T) {
	for field, o := range map[string]Options{"Namespace": {Namespace: "my-shop"}, "Timeout": {Timeout: -1},
		"Options.Namespace": {Namespace: "7days"}} {
		_, err := New(o)
		require.ErrorContains(t, err, field)
	}
	m := mustNew(t, Options{NoRuntime: true, Logger: quiet})
	for field, o := range map[string]HTTPOptions{"MaxRoutes": {MaxRoutes: -1}, "Slow": {Slow: -time.Second}} {
		_, err := m.HTTP(o)
		require.ErrorContains(t, err, "HTTPOptions."+field)
	}
	mustHTTP(t, m, HTTPOptions{Server: "web"})
	_, err := m.HTTP(HTTPOptions{Server: "web"})
	require.ErrorContains(t, err, "already")
	_, err = m.Client("", nil)
	require.Error(t, err)
	_, err = m.Client("payments", nil)
	require.NoError(t, err)
	_, err = m.Client("payments", nil)
	require.ErrorContains(t, err, "already")

	type good struct {
		N uint64 `metric:"n_total,counter,N"`
	}
	read := func() good { return good{} }
	require.NoError(t, m.Register(Collect("lb", read)))
	require.ErrorContains(t, m.Register(Collect("lb", read)), "already", "the same prefix twice")
	require.NoError(t, m.Register(WithLabels(map[string]string{"node": "a"}, Collect("lb", read))))
	require.NoError(t, m.Register(WithLabels(map[string]string{"node": "b"}, Collect("lb", read))))
	require.ErrorContains(t, m.Register(WithLabels(map[string]string{"node": "b"}, Collect("lb", read))), "already")
	require.ErrorContains(t, m.Register(WithLabels(map[string]string{"bad-label": "b"}, Collect("x", read))),
		"bad-label")
	require.ErrorContains(t, m.Register(Collect("my-lb", read)), "my-lb")
	require.ErrorContains(t, m.Register(Collect("lb", func() (s struct {
		N uint64 `metric:"n_total,gauge,N"`
	}) {
		return s
	})), "counter already")
	require.ErrorContains(t, m.Register(Collect("k", func() (s struct {
		N uint64 `metric:"n_total,number,N"`
	}) {
		return s
	})), `"number"`)
	require.ErrorContains(t, m.Register(Collect("k", func() (s struct {
		N string `metric:"n,gauge,N"`
	}) {
		return s
	})), "no number")
	require.ErrorContains(t, m.Register(Collect("k", func() (s struct {
		In []struct {
			N uint64 `metric:"n-n,gauge,N"`
		}
	}) {
		return s
	})), "n-n", "also where no element is there yet")
	require.Error(t, m.Register(nil))
}

// One broken collector, alone or below constant labels, costs its own series in every format, and says so.
func TestBrokenCollectorInEveryFormat(t *testing.T) {
	type part struct {
		N int `metric:"n,gauge,N"`
	}
	for _, labels := range []map[string]string{nil, {"node": "a"}} {
		m := mustNew(t, Options{NoRuntime: true, Logger: quiet})
		require.NoError(t, m.Register(Collect("good", func() part { return part{} })))
		require.NoError(t, m.Register(WithLabels(labels, Collect("broken", func() part { panic("not ready") }))))
		for _, accept := range []string{"", openMetricsAccept, protobufAccept} {
			rec := ask(m.Handler(), "Accept", accept)
			require.Equal(t, 200, rec.Code)
			require.Contains(t, rec.Body.String(), "good_n")
			require.Contains(t, rec.Body.String(), "metrics_collector_failures")
			require.NotContains(t, rec.Body.String(), "broken")
		}
		s := m.Stats()
		require.EqualValues(t, 4, s.CollectorFailures, "three scrapes and the registration")
		require.Contains(t, s.LastError, "not ready")
		require.WithinDuration(t, time.Now(), s.LastErrorAt, time.Minute)
	}
}
