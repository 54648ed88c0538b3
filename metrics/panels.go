package metrics

import "time"

// builtinPanels are those that every dashboard has, in the page and in Grafana.
func (m *Metrics) builtinPanels() []Panel {
	panels := m.httpPanels()
	if !m.o.NoHost {
		panels = append(panels, m.processorPanel(), m.memoryPanel())
	}
	return panels
}

// httpPanels are rate, errors and 99th percentile of every wrapper, as differences between two reads.
func (m *Metrics) httpPanels() []Panel {
	each := func(f func(now, before HTTPStats, dt float64) float64) func() []Value {
		before, at := map[*HTTP]HTTPStats{}, time.Now()
		return func() (vs []Value) {
			dt := max(time.Since(at).Seconds(), 1e-3)
			at = time.Now()
			for _, h := range m.servers() {
				s := h.Stats()
				if b, seen := before[h]; seen { // the first read has nothing to differ from
					vs = append(vs, Value{s.Server, f(s, b, dt)})
				}
				before[h] = s
			}
			return vs
		}
	}
	requests, took := m.name("http_requests_total"), m.name("http_request_duration_seconds")
	return []Panel{
		{Title: "HTTP requests", Unit: "/s", PromQL: "sum by (server) (rate(" + requests + "[1m]))",
			Read: each(func(n, b HTTPStats, dt float64) float64 { return float64(n.Requests-b.Requests) / dt })},
		{Title: "HTTP errors (5xx)", Unit: "/s", PromQL: `sum by (server) (rate(` + requests + `{class="5xx"}[1m]))`,
			Read: each(func(n, b HTTPStats, dt float64) float64 { return float64(n.Errors-b.Errors) / dt })},
		{Title: "HTTP latency p99", Unit: "ms", PromQL: "1000 * histogram_quantile(0.99, sum by (server, le) (rate(" +
			took + "_bucket[1m])))",
			Read: each(func(n, b HTTPStats, _ float64) float64 {
				s := n.Took.Sub(b.Took)
				return float64(s.Quantile(.99).Microseconds()) / 1000
			})},
	}
}

func (m *Metrics) processorPanel() Panel {
	var busy float64
	at := time.Now()
	return Panel{Title: "Processor", Unit: "%", PromQL: "100 * rate(" + m.name("host_cpu_busy_seconds_total") +
		"[1m]) / " + m.name("host_cpus"), Read: func() []Value {
		s := readHost()
		dt := max(time.Since(at).Seconds(), 1e-3)
		v := (s.CPUBusySeconds - busy) / dt / max(float64(s.CPUs), 1) * 100
		if busy == 0 {
			v = 0
		}
		busy, at = s.CPUBusySeconds, time.Now()
		return []Value{{"busy", min(v, 100)}}
	}}
}

func (m *Metrics) memoryPanel() Panel {
	return Panel{Title: "Memory", Unit: "%", PromQL: "100 * (1 - " + m.name("host_memory_available_bytes") + " / " +
		m.name("host_memory_bytes") + ")", Read: func() []Value {
		s := readHost()
		return []Value{{"used", 100 * (1 - float64(s.MemoryFree)/max(float64(s.MemoryTotal), 1))}}
	}}
}
