// Package host shows the machine that a process runs on, or its container where the limits are lower: processor,
// memory, disks, network, files and pressure.
//
//	m, _ := metrics.New(metrics.Options{})
//	_, err := host.New(m)
//
// On Linux it reads /proc and the control group itself; elsewhere it uses gopsutil.
package host

import (
	"time"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/slo"
)

// Stats are those of the machine, or of the container where its limits are lower. What a system does not tell is 0.
type Stats struct {
	Load1          float64       `metric:"load1,gauge,Load average of 1 min"`
	Load5          float64       `metric:"load5,gauge,Load average of 5 min"`
	Load15         float64       `metric:"load15,gauge,Load average of 15 min"`
	CPUBusySeconds float64       `metric:"cpu_busy_seconds_total,counter,CPU time that was not idle, all cores"`
	CPUs           int           `metric:"cpus,gauge,Cores of the machine"`
	CPULimit       float64       `metric:"cpu_limit,gauge,Cores the cgroup may use; the machine's without a limit"`
	Throttled      time.Duration `metric:"cpu_throttled_seconds_total,counter,Time the cgroup was held back"`
	MemoryTotal    uint64        `metric:"memory_bytes,gauge,Memory of the machine, or the cgroup's limit"`
	MemoryFree     uint64        `metric:"memory_available_bytes,gauge,Memory that can be had without swapping"`
	DiskTotal      uint64        `metric:"disk_bytes,gauge,Size of the file system of the working directory"`
	DiskFree       uint64        `metric:"disk_free_bytes,gauge,Free space there for this user"`
	DiskRead       uint64        `metric:"disk_read_bytes_total,counter,Bytes read from all disks"`
	DiskWritten    uint64        `metric:"disk_written_bytes_total,counter,Bytes written to all disks"`
	DiskBusy       time.Duration `metric:"disk_busy_seconds_total,counter,Time that disks had something to do, summed"`
	NetReceived    uint64        `metric:"network_received_bytes_total,counter,Bytes received, loopback excluded"`
	NetSent        uint64        `metric:"network_sent_bytes_total,counter,Bytes sent, loopback excluded"`
	NetErrors      uint64        `metric:"network_errors_total,counter,Packets lost or broken, loopback excluded"`
	OpenFiles      int           `metric:"open_files,gauge,File descriptors of this process"`
	FilesLimit     uint64        `metric:"open_files_limit,gauge,File descriptors this process may have"`
	PressureCPU    time.Duration `metric:"pressure_cpu_seconds_total,counter,Time some task waited for a core (PSI)"`
	PressureIO     time.Duration `metric:"pressure_io_seconds_total,counter,Time some task waited for I/O (PSI)"`
	PressureMemory time.Duration `metric:"pressure_memory_seconds_total,counter,Time some task waited for memory (PSI)"`
}

// Read reads the figures of the machine; the series host_* are the same. It is safe for concurrent use.
func Read() Stats { return readHost() }

// Host is the machine as a collector of a Metrics. Its methods are safe for concurrent use.
type Host struct {
	prefix string
	series metrics.Collector
}

// New adds the series host_* to m, and alerts to slo.Rules(m). It fails when m has them already.
func New(m *metrics.Metrics) (*Host, error) {
	h := &Host{prefix: m.Name("host")}
	h.series = metrics.Collect(h.prefix, Read)
	return h, m.Register(h)
}

// Collect implements metrics.Collector.
func (h *Host) Collect(s *metrics.Scrape) { h.series.Collect(s) }

func (h *Host) String() string { return h.prefix }

// Rules implements slo.Ruler.
func (h *Host) Rules() (group string, rules []slo.Rule) {
	n := func(s string) string { return h.prefix + "_" + s }
	severity := func(s string) []string { return []string{"severity", s} }
	return "host", []slo.Rule{
		{Alert: "DiskAlmostFull", For: 5 * time.Minute, Labels: severity("page"),
			Summary: "Less than 10 % of {{ $labels.instance }}'s disk is free",
			Expr:    n("disk_free_bytes") + " / " + n("disk_bytes") + " < 0.1"},
		{Alert: "MemoryAlmostFull", For: 5 * time.Minute, Labels: severity("page"),
			Summary: "Less than 5 % of {{ $labels.instance }}'s memory is free",
			Expr:    n("memory_available_bytes") + " / " + n("memory_bytes") + " < 0.05"},
		{Alert: "ProcessorThrottled", For: 10 * time.Minute, Labels: severity("ticket"),
			Summary: "{{ $labels.instance }} waits for its own processor limit a quarter of the time",
			Expr:    "rate(" + n("cpu_throttled_seconds_total") + "[5m]) > 0.25"},
		{Alert: "MemoryPressure", For: 5 * time.Minute, Labels: severity("ticket"),
			Summary: "Tasks of {{ $labels.instance }} wait for memory a tenth of the time",
			Expr:    "rate(" + n("pressure_memory_seconds_total") + "[5m]) > 0.1"},
		{Alert: "FewFilesLeft", For: 5 * time.Minute, Labels: severity("ticket"),
			Summary: "{{ $labels.instance }} has opened more than 80 % of the files it may",
			Expr:    n("open_files") + " / " + n("open_files_limit") + " > 0.8"},
	}
}

// Panels implements slo.Paneler.
func (h *Host) Panels() []slo.Panel {
	return []slo.Panel{
		{Title: "Processor", Unit: "%",
			PromQL: "100 * rate(" + h.prefix + "_cpu_busy_seconds_total[$__rate_interval]) / " + h.prefix + "_cpus"},
		{Title: "Memory", Unit: "%",
			PromQL: "100 * (1 - " + h.prefix + "_memory_available_bytes / " + h.prefix + "_memory_bytes)"},
	}
}
