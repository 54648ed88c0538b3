package dashboard

import (
	"cmp"
	"slices"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

// routeKey is what tells routes apart.
type routeKey struct{ server, route, method string }

// routeSnapshot are the totals of all routes at one moment.
type routeSnapshot struct {
	at     time.Time
	totals map[routeKey]metrics.RouteStats
}

// routeTable keeps the totals of half a window ago and of a whole one ago, which is enough for figures of the latest
// window and costs little memory.
type routeTable struct {
	now, half, base routeSnapshot
	trends          map[routeKey][]*float64 // the rate in each of the latest half windows
}

const trendPoints = 30

func snapshotRoutes(m *metrics.Metrics) map[routeKey]metrics.RouteStats {
	totals := map[routeKey]metrics.RouteStats{}
	for _, h := range servers(m) {
		server := h.Stats().Server
		for _, r := range h.Routes() {
			totals[routeKey{server, r.Route, r.Method}] = r
		}
	}
	return totals
}

// add takes a snapshot. The window of the figures is between half of the given one and the whole.
func (t *routeTable) add(at time.Time, totals map[routeKey]metrics.RouteStats, window time.Duration) {
	t.now = routeSnapshot{at, totals}
	switch {
	case t.base.totals == nil:
		t.base, t.half, t.trends = t.now, t.now, map[routeKey][]*float64{}
	case at.Sub(t.half.at) >= window/2:
		seconds := at.Sub(t.half.at).Seconds()
		for k, r := range totals {
			rate := float64(r.Requests-t.half.totals[k].Requests) / seconds
			trend := append(t.trends[k], &rate)
			t.trends[k] = trend[max(len(trend)-trendPoints, 0):]
		}
		t.base, t.half = t.half, t.now
	}
}

// routeFigures are those of one route over the latest window. Rates are per second and times in milliseconds; nil is
// unknown, as the quantiles of a route without requests.
type routeFigures struct {
	Server   string     `json:"server"`
	Route    string     `json:"route"`
	Method   string     `json:"method"`
	Requests uint64     `json:"requests"` // since the start
	Rate     *float64   `json:"rate"`
	Errors   *float64   `json:"errors"`
	P50      *float64   `json:"p50_ms"`
	P99      *float64   `json:"p99_ms"`
	Apdex    *float64   `json:"apdex"`
	Trend    []*float64 `json:"trend"`
}

// figures returns the figures of all routes, the busiest first.
func (t *routeTable) figures(satisfied time.Duration) []routeFigures {
	out := []routeFigures{}
	seconds := t.now.at.Sub(t.base.at).Seconds()
	for k, now := range t.now.totals {
		f := routeFigures{Server: k.server, Route: k.route, Method: k.method, Requests: now.Requests,
			Trend: append([]*float64{}, t.trends[k]...)}
		if seconds > 0 {
			before := t.base.totals[k]
			n, errors := now.Requests-before.Requests, now.Errors-before.Errors
			f.Rate, f.Errors = known(float64(n)/seconds), known(float64(errors)/seconds)
			if took := now.Took.Sub(before.Took); n > 0 {
				f.P50, f.P99 = known(milliseconds(took.Quantile(.5))), known(milliseconds(took.Quantile(.99)))
				f.Apdex = known(apdex(&took, errors, satisfied))
			}
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b routeFigures) int {
		return cmp.Or(cmp.Compare(b.rate(), a.rate()), cmp.Compare(b.Requests, a.Requests),
			cmp.Compare(a.Server, b.Server), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method))
	})
	return out
}

func (f *routeFigures) rate() float64 {
	if f.Rate == nil {
		return 0
	}
	return *f.Rate
}

// apdex is the share of satisfied requests plus half of the tolerated ones (Application Performance Index 1.1). Errors
// frustrate however fast they are; they are taken to be among the fast answers, so the figure is never too good.
func apdex(took *metrics.HistogramSnapshot, errors uint64, satisfied time.Duration) float64 {
	fast := took.AtMost(satisfied)
	tolerated := took.AtMost(4*satisfied) - fast
	fromFast := min(errors, fast)
	fast -= fromFast
	tolerated -= min(errors-fromFast, tolerated)
	return (float64(fast) + float64(tolerated)/2) / float64(max(took.Count, 1))
}
