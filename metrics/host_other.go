//go:build !linux

package metrics

import (
	"runtime"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// HostStats are those of the machine.
type HostStats struct {
	Load1          float64 `metric:"load1,gauge,Load average of 1 min"`
	CPUBusySeconds float64 `metric:"cpu_busy_seconds_total,counter,CPU time that was not idle, all cores"`
	CPUs           int     `metric:"cpus,gauge,Cores of the machine"`
	MemoryTotal    uint64  `metric:"memory_bytes,gauge,Memory of the machine"`
	MemoryFree     uint64  `metric:"memory_available_bytes,gauge,Memory that can be had without swapping"`
	DiskTotal      uint64  `metric:"disk_bytes,gauge,Size of the file system of the working directory"`
	DiskFree       uint64  `metric:"disk_free_bytes,gauge,Free space there for this user"`
	NetReceived    uint64  `metric:"network_received_bytes_total,counter,Bytes received"`
	NetSent        uint64  `metric:"network_sent_bytes_total,counter,Bytes sent"`
}

// readHost reads what the system tells; what is missing stays 0.
func readHost() HostStats {
	s := HostStats{CPUs: runtime.NumCPU()}
	if l, err := load.Avg(); err == nil {
		s.Load1 = l.Load1
	}
	if t, err := cpu.Times(false); err == nil && len(t) > 0 {
		s.CPUBusySeconds = t[0].User + t[0].System + t[0].Nice + t[0].Irq + t[0].Softirq
	}
	if m, err := mem.VirtualMemory(); err == nil {
		s.MemoryTotal, s.MemoryFree = m.Total, m.Available
	}
	if d, err := disk.Usage("."); err == nil {
		s.DiskTotal, s.DiskFree = d.Total, d.Free
	}
	if n, err := net.IOCounters(false); err == nil && len(n) > 0 {
		s.NetReceived, s.NetSent = n[0].BytesRecv, n[0].BytesSent
	}
	return s
}
