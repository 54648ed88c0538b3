package metrics

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// processCollector yields the series of this process under the names that Prometheus's own client gives them. The
// sources are those of proc(5).
type processCollector struct{}

// userHZ is the ticks per second of /proc/self/stat: 100 on every architecture that Linux runs Go on.
const userHZ = 100

// Collect implements Collector. What cannot be read is left out.
func (processCollector) Collect(s *Scrape) {
	if b, err := os.ReadFile("/proc/self/stat"); err == nil {
		addProcessStat(s, b)
	}
	if n, ok := openFiles(); ok {
		s.Gauge("process_open_fds", "Open file descriptors", float64(n))
	}
	if limit, ok := limitOf(syscall.RLIMIT_NOFILE); ok {
		s.Gauge("process_max_fds", "Most file descriptors that may be open", limit)
	}
	if limit, ok := limitOf(syscall.RLIMIT_AS); ok {
		s.Gauge("process_virtual_memory_max_bytes", "Most virtual memory that may be mapped", limit)
	}
	if b, err := os.ReadFile("/proc/self/net/netstat"); err == nil {
		in, out := octets(b)
		s.Counter("process_network_receive_bytes_total", "Bytes received in the process's network namespace", in)
		s.Counter("process_network_transmit_bytes_total", "Bytes sent in the process's network namespace", out)
	}
}

// addProcessStat reads /proc/self/stat. The command's name, in parentheses, may hold spaces.
func addProcessStat(s *Scrape, b []byte) {
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // f[0] is field 3, the state
	if len(f) < 22 {
		return
	}
	field := func(n int) float64 {
		v, _ := strconv.ParseFloat(string(f[n-3]), 64)
		return v
	}
	s.Counter("process_cpu_seconds_total", "Processor time in user and kernel mode", (field(14)+field(15))/userHZ)
	s.Gauge("process_virtual_memory_bytes", "Virtual memory", field(23))
	s.Gauge("process_resident_memory_bytes", "Resident memory", field(24)*float64(os.Getpagesize()))
	if boot, ok := bootTime(); ok {
		s.Gauge("process_start_time_seconds", "Start of the process, in seconds since 1970", boot+field(22)/userHZ)
	}
}

func bootTime() (float64, bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(b), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(line, 64)
	return v, ok && err == nil
}

// openFiles counts the open file descriptors; since Linux 6.2 they are the size of the directory.
func openFiles() (int, bool) {
	var st syscall.Stat_t
	if syscall.Stat("/proc/self/fd", &st) == nil && st.Size > 0 {
		return int(st.Size), true
	}
	d, err := os.ReadDir("/proc/self/fd")
	return len(d) - 1, err == nil // without the one that reads
}

func limitOf(resource int) (float64, bool) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(resource, &l)
	return float64(l.Cur), err == nil
}

// octets reads what IP received and sent from the lines of /proc/net/netstat, each of which follows one with its names.
func octets(b []byte) (in, out float64) {
	lines := strings.Split(string(b), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) || len(names) == 0 || names[0] != "IpExt:" {
			continue
		}
		for j, n := range names {
			switch v, _ := strconv.ParseFloat(values[j], 64); n {
			case "InOctets":
				in = v
			case "OutOctets":
				out = v
			}
		}
	}
	return in, out
}

func (processCollector) String() string { return "the process" }
