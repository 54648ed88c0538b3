package host

import (
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/race"
)

// procfs, the parser of node_exporter, is the oracle: what it reads between two of ours lies between them.
func TestHostAgreesWithProcfs(t *testing.T) {
	fs, err := procfs.NewDefaultFS()
	require.NoError(t, err)
	before := Read()
	stat, err := fs.Stat()
	require.NoError(t, err)
	mem, err := fs.Meminfo()
	require.NoError(t, err)
	load, err := fs.LoadAvg()
	require.NoError(t, err)
	devs, err := fs.NetDev()
	require.NoError(t, err)
	block, err := blockdevice.NewFS("/proc", "/sys")
	require.NoError(t, err)
	disks, err := block.ProcDiskstats()
	require.NoError(t, err)
	after := Read()
	between := func(lo, x, hi float64, what string) {
		require.LessOrEqual(t, lo, x+1e-6, what)
		require.LessOrEqual(t, x, hi+1e-6, what)
	}
	c := stat.CPUTotal
	between(before.CPUBusySeconds, c.User+c.Nice+c.System+c.IRQ+c.SoftIRQ, after.CPUBusySeconds, "busy")
	require.Equal(t, len(stat.CPU), after.CPUs)
	require.LessOrEqual(t, after.MemoryTotal, *mem.MemTotalBytes)
	require.Greater(t, after.MemoryFree, uint64(0))
	require.Contains(t, []float64{before.Load1, after.Load1}, load.Load1)
	require.Contains(t, []float64{before.Load15, after.Load15}, load.Load15)
	var rx, tx, lost uint64
	for name, d := range devs {
		if name != "lo" {
			rx, tx, lost = rx+d.RxBytes, tx+d.TxBytes, lost+d.RxErrors+d.RxDropped+d.TxErrors+d.TxDropped
		}
	}
	between(float64(before.NetReceived), float64(rx), float64(after.NetReceived), "received")
	between(float64(before.NetSent), float64(tx), float64(after.NetSent), "sent")
	between(float64(before.NetErrors), float64(lost), float64(after.NetErrors), "errors")
	var read, written, busy uint64
	for _, d := range disks {
		if hostFiles().wholeDisk([]byte(d.DeviceName)) {
			read, written, busy = read+d.ReadSectors*512, written+d.WriteSectors*512, busy+d.IOsTotalTicks
		}
	}
	between(float64(before.DiskRead), float64(read), float64(after.DiskRead), "read")
	between(float64(before.DiskWritten), float64(written), float64(after.DiskWritten), "written")
	between(before.DiskBusy.Seconds(), float64(busy)/1000, after.DiskBusy.Seconds(), "busy disks")
	if psi, err := fs.PSIStatsForResource("cpu"); err == nil && psi.Some != nil {
		between(before.PressureCPU.Seconds(), float64(psi.Some.Total)/1e6, Read().PressureCPU.Seconds(), "pressure")
	}
	require.Greater(t, after.OpenFiles, 2)
	require.GreaterOrEqual(t, after.FilesLimit, uint64(after.OpenFiles))
	require.Greater(t, after.DiskTotal, after.DiskFree)
}

func TestHostBelievesTheCgroup(t *testing.T) {
	s := Stats{CPUs: 8, CPULimit: 8, MemoryTotal: 1 << 34, MemoryFree: 1 << 33}
	s.throttled([]byte("usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n"))
	s.cgroup([]byte("150000 100000\n"), []byte("1073741824\n"), []byte("1000000000\n"))
	require.Equal(t, 1.5, s.CPULimit)
	require.Equal(t, 2500*time.Millisecond, s.Throttled)
	require.EqualValues(t, 1<<30, s.MemoryTotal)
	require.EqualValues(t, 1<<30-1_000_000_000, s.MemoryFree)
	s.cgroup([]byte("400000 100000\n"), []byte("max\n"), []byte("5\n")) // a level above allows more
	require.Equal(t, 1.5, s.CPULimit)
	require.EqualValues(t, 1<<30, s.MemoryTotal)
	s = Stats{CPUs: 8, CPULimit: 8, MemoryTotal: 1 << 34, MemoryFree: 1 << 33}
	s.cgroup([]byte("max 100000\n"), []byte("max\n"), []byte("5\n"))
	s.cgroup(nil, nil, nil)
	require.Equal(t, 8.0, s.CPULimit)
	require.EqualValues(t, 1<<34, s.MemoryTotal)
	require.Equal(t, 1234567*time.Microsecond,
		pressure([]byte("some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 total=1\n")))
	require.Zero(t, pressure(nil))
}

func TestHostDisks(t *testing.T) {
	var s Stats
	s.disks([]byte("   8       0 sda 100 1 2000 30 200 2 4000 60 0 70 90 0 0 0 0 0 0\n   8       1 sda1 100 1 2000 30 200 2 4000 60 0 70 90 0 0 0 0 0 0\n"), func(n []byte) bool {
		return string(n) == "sda"
	})
	require.EqualValues(t, 2000*512, s.DiskRead)
	require.EqualValues(t, 4000*512, s.DiskWritten)
	require.Equal(t, 70*time.Millisecond, s.DiskBusy)
}

func TestHostAllocatesNothing(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	Read()
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { Read() }), 3.0)
}
