package slo

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMetrics(t *testing.T, namespace string) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true, Namespace: namespace})
	require.NoError(t, err)
	return m
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	page, _ := m.Scrape("")
	return string(page)
}

// A day of one event a second: what the windows see, when the alerts fire and when they stop.
func TestBurnRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics(t, "")
		var good, total atomic.Uint64
		o, err := New(m, Options{Name: "checkout", Objective: 0.99, Read: func() (uint64, uint64) {
			return good.Load(), total.Load()
		}})
		require.NoError(t, err)
		require.Equal(t, Status{Name: "checkout", Objective: 0.99, Good: 1, BudgetLeft: 1}, o.Status(),
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
	m := newMetrics(t, "shop")
	h, err := m.HTTP(metrics.HTTPOptions{Server: "web"})
	require.NoError(t, err)
	status := 200
	srv := h.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	for i := range 100 {
		if status = 200; i < 3 {
			status = 500
		}
		srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	_, err = New(m, Options{Name: "available", Objective: 0.999, Read: h.Availability()})
	require.NoError(t, err)
	_, err = New(m, Options{Name: "fast", Objective: 0.95, Read: h.Latency(time.Minute)})
	require.NoError(t, err)
	good, total := h.Availability()()
	require.EqualValues(t, []uint64{97, 100}, []uint64{good, total})
	good, total = h.Latency(time.Minute)()
	require.EqualValues(t, []uint64{100, 100}, []uint64{good, total})
	out := scrape(t, m)
	require.Contains(t, out, `shop_slo_bad_events_total{slo="available"} 3`)
	require.Contains(t, out, `shop_slo_events_total{slo="fast"} 100`)
	require.Contains(t, out, `shop_slo_burn_rate{slo="fast",window="6h"} 0`)

	for name, s := range map[string]Options{
		"Options.Name":      {Name: "Bad Name", Objective: 0.9, Read: h.Availability()},
		"Options.Objective": {Name: "x", Objective: 1, Read: h.Availability()},
		"Options.Window":    {Name: "x", Objective: 0.9, Window: time.Minute, Read: h.Availability()},
		"Options.Read":      {Name: "x", Objective: 0.9},
		"already":           {Name: "fast", Objective: 0.9, Read: h.Availability()},
	} {
		_, err := New(m, s)
		require.ErrorContains(t, err, name)
	}
}
