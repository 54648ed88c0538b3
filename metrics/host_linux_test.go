package metrics

import (
	"testing"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
)

// procfs, the parser of node_exporter, is the oracle.
func TestHostAgreesWithProcfs(t *testing.T) {
	fs, err := procfs.NewDefaultFS()
	require.NoError(t, err)
	before := readHost()
	stat, err := fs.Stat()
	require.NoError(t, err)
	mem, err := fs.Meminfo()
	require.NoError(t, err)
	after := readHost()
	c := stat.CPUTotal
	busy := c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal
	require.LessOrEqual(t, before.CPUBusySeconds, busy+0.1)
	require.InDelta(t, busy-c.Steal, after.CPUBusySeconds, 2)
	require.Equal(t, len(stat.CPU), after.CPUs)
	require.LessOrEqual(t, after.MemoryTotal, *mem.MemTotalBytes)
	require.Greater(t, after.MemoryFree, uint64(0))
	require.Greater(t, after.OpenFiles, 2)
	require.Greater(t, after.DiskTotal, after.DiskFree)
}

func TestHostBelievesTheCgroup(t *testing.T) {
	s := HostStats{CPUs: 8, CPULimit: 8, MemoryTotal: 1 << 34, MemoryFree: 1 << 33}
	s.cgroup("150000 100000\n", "usage_usec 5\nthrottled_usec 2500000\n", "1073741824\n", "1000000000\n")
	require.Equal(t, 1.5, s.CPULimit)
	require.Equal(t, 2.5, s.Throttled)
	require.EqualValues(t, 1<<30, s.MemoryTotal)
	require.EqualValues(t, 1<<30-1_000_000_000, s.MemoryFree)
	s = HostStats{CPUs: 8, CPULimit: 8, MemoryTotal: 1 << 34, MemoryFree: 1 << 33}
	s.cgroup("max 100000\n", "", "max\n", "5\n")
	require.Equal(t, 8.0, s.CPULimit)
	require.EqualValues(t, 1<<34, s.MemoryTotal)
	require.Equal(t, 1.234567, pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 total=1\n"))
}
