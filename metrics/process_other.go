//go:build !linux

package metrics

import "time"

// processCollector yields what package runtime knows of this process. The series of Prometheus's own client can be had
// through package prombridge.
type processCollector struct{}

var started = time.Now()

// Collect implements Collector.
func (processCollector) Collect(s *Scrape) {
	s.Gauge("process_start_time_seconds", "Start of the process, in seconds since 1970",
		float64(started.UnixNano())/1e9)
}

func (processCollector) String() string { return "the process" }
