package dashboard

import (
	"math"
	"time"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/host"
)

// servers returns the HTTP wrappers of m.
func servers(m *metrics.Metrics) (all []*metrics.HTTP) {
	for _, c := range m.Collectors() {
		if h, ok := c.(*metrics.HTTP); ok {
			all = append(all, h)
		}
	}
	return all
}

// builtinPanels are those that every dashboard has. Grafana gets the same from package slo.
func builtinPanels(m *metrics.Metrics) []Panel {
	panels := httpPanels(m)
	for _, c := range m.Collectors() {
		if _, ok := c.(*host.Host); ok {
			panels = append(panels, processorPanel(), memoryPanel())
		}
	}
	return panels
}

// httpPanels are rate, errors and 99th percentile of every wrapper, as differences between two reads.
func httpPanels(m *metrics.Metrics) []Panel {
	each := func(f func(now, before metrics.HTTPStats, dt float64) float64) func() []Value {
		before, at := map[*metrics.HTTP]metrics.HTTPStats{}, time.Now()
		return func() (vs []Value) {
			dt := max(time.Since(at).Seconds(), 1e-3)
			at = time.Now()
			for _, h := range servers(m) {
				s := h.Stats()
				if b, seen := before[h]; seen { // the first read has nothing to differ from
					vs = append(vs, Value{s.Server, f(s, b, dt)})
				}
				before[h] = s
			}
			return vs
		}
	}
	return []Panel{
		{Title: "HTTP requests", Unit: "/s", Read: each(func(n, b metrics.HTTPStats, dt float64) float64 {
			return float64(n.Requests-b.Requests) / dt
		})},
		{Title: "HTTP errors (5xx)", Unit: "/s", Read: each(func(n, b metrics.HTTPStats, dt float64) float64 {
			return float64(n.Errors-b.Errors) / dt
		})},
		{Title: "HTTP latency p50", Unit: "ms", Read: each(func(n, b metrics.HTTPStats, _ float64) float64 {
			return quantile(n, b, .5)
		})},
		{Title: "HTTP latency p99", Unit: "ms", Read: each(func(n, b metrics.HTTPStats, _ float64) float64 {
			return quantile(n, b, .99)
		})},
	}
}

// quantile is that of the requests between two reads; unknown when there were none.
func quantile(now, before metrics.HTTPStats, q float64) float64 {
	s := now.Took.Sub(before.Took)
	if s.Count == 0 {
		return math.NaN()
	}
	return milliseconds(s.Quantile(q))
}

func processorPanel() Panel {
	var busy float64
	at := time.Now()
	return Panel{Title: "Processor", Unit: "%", Read: func() []Value {
		s := host.Read()
		dt := max(time.Since(at).Seconds(), 1e-3)
		v := (s.CPUBusySeconds - busy) / dt / max(float64(s.CPUs), 1) * 100
		if busy == 0 {
			v = math.NaN()
		}
		busy, at = s.CPUBusySeconds, time.Now()
		return []Value{{"busy", min(v, 100)}}
	}}
}

func memoryPanel() Panel {
	return Panel{Title: "Memory", Unit: "%", Read: func() []Value {
		s := host.Read()
		return []Value{{"used", 100 * (1 - float64(s.MemoryFree)/max(float64(s.MemoryTotal), 1))}}
	}}
}
