package metrics

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// HostStats are those of the machine, or of the container where its limits are lower.
type HostStats struct {
	Load1          float64 `metric:"load1,gauge,Load average of 1 min"`
	CPUBusySeconds float64 `metric:"cpu_busy_seconds_total,counter,CPU time that was not idle, all cores"`
	CPUs           int     `metric:"cpus,gauge,Cores of the machine"`
	CPULimit       float64 `metric:"cpu_limit,gauge,Cores the cgroup may use; the machine's without a limit"`
	Throttled      float64 `metric:"cpu_throttled_seconds_total,counter,Time the cgroup was held back"`
	MemoryTotal    uint64  `metric:"memory_bytes,gauge,Memory of the machine, or the cgroup's limit"`
	MemoryFree     uint64  `metric:"memory_available_bytes,gauge,Memory that can be had without swapping"`
	DiskTotal      uint64  `metric:"disk_bytes,gauge,Size of the file system of the working directory"`
	DiskFree       uint64  `metric:"disk_free_bytes,gauge,Free space there for this user"`
	NetReceived    uint64  `metric:"network_received_bytes_total,counter,Bytes received, loopback excluded"`
	NetSent        uint64  `metric:"network_sent_bytes_total,counter,Bytes sent, loopback excluded"`
	OpenFiles      int     `metric:"open_files,gauge,File descriptors of this process"`
	PressureCPU    float64 `metric:"pressure_cpu_seconds_total,counter,Time some task waited for a core (PSI)"`
	PressureIO     float64 `metric:"pressure_io_seconds_total,counter,Time some task waited for I/O (PSI)"`
	PressureMemory float64 `metric:"pressure_memory_seconds_total,counter,Time some task waited for memory (PSI)"`
}

// ticks per second of /proc/stat: USER_HZ is 100 on every architecture Linux runs Go on.
const userHZ = 100

// readHost reads what is there; what is missing stays 0.
func readHost() HostStats {
	var s HostStats
	if f := strings.Fields(readFile("/proc/loadavg")); len(f) > 0 {
		s.Load1, _ = strconv.ParseFloat(f[0], 64)
	}
	s.cpu(readFile("/proc/stat"))
	s.memory(readFile("/proc/meminfo"))
	s.network(readFile("/proc/net/dev"))
	s.cgroup(readFile("/sys/fs/cgroup/cpu.max"), readFile("/sys/fs/cgroup/cpu.stat"), readFile("/sys/fs/cgroup/memory.max"), readFile("/sys/fs/cgroup/memory.current"))
	s.PressureCPU = pressure(readFile("/proc/pressure/cpu"))
	s.PressureIO = pressure(readFile("/proc/pressure/io"))
	s.PressureMemory = pressure(readFile("/proc/pressure/memory"))
	var fs syscall.Statfs_t
	if syscall.Statfs(".", &fs) == nil {
		s.DiskTotal, s.DiskFree = fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
	}
	if d, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.OpenFiles = len(d) - 1 // without the one that reads
	}
	return s
}

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func (s *HostStats) cpu(stat string) {
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) < 8 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			s.CPUs++
			continue
		}
		for i, v := range f[1:8] { // user nice system idle iowait irq softirq; guest time is part of user
			n, _ := strconv.ParseUint(v, 10, 64)
			if i != 3 && i != 4 {
				s.CPUBusySeconds += float64(n) / userHZ
			}
		}
	}
	s.CPULimit = float64(s.CPUs)
}

func (s *HostStats) memory(meminfo string) {
	for line := range strings.Lines(meminfo) {
		name, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if len(f) == 0 {
			continue
		}
		n, _ := strconv.ParseUint(f[0], 10, 64)
		switch name {
		case "MemTotal":
			s.MemoryTotal = n << 10
		case "MemAvailable":
			s.MemoryFree = n << 10
		}
	}
}

func (s *HostStats) network(dev string) {
	sc := bufio.NewScanner(bytes.NewBufferString(dev))
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 9 || strings.TrimSpace(name) == "lo" {
			continue
		}
		in, _ := strconv.ParseUint(f[0], 10, 64)
		out, _ := strconv.ParseUint(f[8], 10, 64)
		s.NetReceived += in
		s.NetSent += out
	}
}

// cgroup applies version 2 limits: a process in a container must not believe in the machine's memory.
func (s *HostStats) cgroup(cpuMax, cpuStat, memMax, memCurrent string) {
	if f := strings.Fields(cpuMax); len(f) == 2 && f[0] != "max" {
		quota, _ := strconv.ParseFloat(f[0], 64)
		period, _ := strconv.ParseFloat(f[1], 64)
		if period > 0 {
			s.CPULimit = min(s.CPULimit, quota/period)
		}
	}
	for line := range strings.Lines(cpuStat) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "throttled_usec" {
			n, _ := strconv.ParseFloat(f[1], 64)
			s.Throttled = n / 1e6
		}
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(memMax), 10, 64)
	if used, e := strconv.ParseUint(strings.TrimSpace(memCurrent), 10, 64); err == nil && e == nil && limit < s.MemoryTotal {
		s.MemoryTotal = limit
		s.MemoryFree = min(s.MemoryFree, limit-min(limit, used))
	}
}

// pressure reads the total of the "some" line, in seconds.
func pressure(psi string) float64 {
	for line := range strings.Lines(psi) {
		if strings.HasPrefix(line, "some ") {
			if _, total, ok := strings.Cut(strings.TrimSpace(line), "total="); ok {
				n, _ := strconv.ParseFloat(total, 64)
				return n / 1e6
			}
		}
	}
	return 0
}
