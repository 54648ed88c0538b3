//go:build !linux

package host

import (
	"runtime"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// readHost reads what the system tells; what is missing stays 0.
func readHost() Stats {
	s := Stats{CPUs: runtime.NumCPU(), CPULimit: float64(runtime.NumCPU())}
	if l, err := load.Avg(); err == nil {
		s.Load1, s.Load5, s.Load15 = l.Load1, l.Load5, l.Load15
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
	if all, err := disk.IOCounters(); err == nil {
		for _, d := range all {
			s.DiskRead += d.ReadBytes
			s.DiskWritten += d.WriteBytes
		}
	}
	if n, err := net.IOCounters(false); err == nil && len(n) > 0 {
		s.NetReceived, s.NetSent = n[0].BytesRecv, n[0].BytesSent
		s.NetErrors = n[0].Errin + n[0].Errout + n[0].Dropin + n[0].Dropout
	}
	return s
}
