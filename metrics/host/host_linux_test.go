package host

import (
	"os"
	"path/filepath"
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

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return root
}

func TestHostBelievesTheCgroup(t *testing.T) {
	const gib = 1 << 30
	machine := Stats{CPUs: 8, CPULimit: 8, MemoryTotal: 16 * gib, MemoryFree: 8 * gib}
	// 1 GiB of limit, 1,000,000,000 bytes used, of which 600,000,000 are page cache that can be dropped.
	stat := "anon 300000000\nfile 700000000\nactive_file 100000000\ninactive_file 600000000\n"
	limited := func(s Stats) Stats {
		s.CPULimit, s.MemoryTotal, s.MemoryFree, s.Throttled = 1.5, gib, gib-400_000_000, 2500*time.Millisecond
		return s
	}
	for name, c := range map[string]struct {
		own   string
		files map[string]string
		want  Stats
	}{
		"version 2": {"0::/system.slice/web.service\n", map[string]string{
			"system.slice/web.service/cpu.max":        "150000 100000\n",
			"system.slice/web.service/cpu.stat":       "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n",
			"system.slice/web.service/memory.max":     "1073741824\n",
			"system.slice/web.service/memory.current": "1000000000\n",
			"system.slice/web.service/memory.stat":    stat,
			"system.slice/cpu.max":                    "400000 100000\n", // a level above allows more
			"system.slice/memory.max":                 "max\n",
			"system.slice/memory.current":             "5\n"}, limited(machine)},
		"version 2, the level above allows less": {"0::/a/b\n", map[string]string{
			"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n", "a/b/memory.current": "5\n",
			"a/b/cpu.stat": "throttled_usec 2500000\n", "a/cpu.max": "150000 100000\n",
			"a/memory.max": "1073741824\n", "a/memory.current": "1000000000\n", "a/memory.stat": stat},
			limited(machine)},
		"version 2 in a container that sees its group as the root": {"0::/kubepods/pod1/c1\n", map[string]string{
			"cpu.max": "150000 100000\n", "cpu.stat": "throttled_usec 2500000\n", "memory.max": "1073741824\n",
			"memory.current": "1000000000\n", "memory.stat": stat}, limited(machine)},
		"version 1": {"9:memory:/docker/c1\n4:cpu,cpuacct:/docker/c1\n1:name=systemd:/docker/c1\n0::/docker/c1\n",
			map[string]string{
				"cpu,cpuacct/docker/c1/cpu.cfs_quota_us":     "150000\n",
				"cpu,cpuacct/docker/c1/cpu.cfs_period_us":    "100000\n",
				"cpu,cpuacct/docker/c1/cpu.stat":             "nr_periods 9\nthrottled_time 2500000000\n",
				"memory/docker/c1/memory.limit_in_bytes":     "1073741824\n",
				"memory/docker/c1/memory.usage_in_bytes":     "1000000000\n",
				"memory/docker/c1/memory.stat":               "inactive_file 7\ntotal_inactive_file 600000000\n",
				"memory/docker/memory.limit_in_bytes":        "9223372036854771712\n",
				"memory/docker/memory.usage_in_bytes":        "15000000000\n",
				"cpu,cpuacct/docker/cpu.cfs_quota_us":        "-1\n",
				"cpu,cpuacct/docker/cpu.cfs_period_us":       "100000\n",
				"cpu,cpuacct/docker/c1/cpuacct.usage":        "7\n",
				"memory/docker/c1/memory.max_usage_in_bytes": "1073741824\n"}, limited(machine)},
		"no limits": {"0::/\n", map[string]string{"cpu.max": "max 100000\n", "memory.max": "max\n"}, machine},
		"nothing":   {"", nil, machine},
	} {
		t.Run(name, func(t *testing.T) {
			root, s := tree(t, c.files), machine
			groups, cpuStat := cgroupsOf(root, c.own)
			for i := range groups {
				groups[i].limit(&s)
			}
			s.throttled((&procFile{path: cpuStat}).read())
			require.Equal(t, c.want, s)
		})
	}
	require.Equal(t, 1234567*time.Microsecond,
		pressure([]byte("some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 total=1\n")))
	require.Zero(t, pressure(nil))
}

func TestHostDisks(t *testing.T) {
	var s Stats
	s.disks([]byte("   8       0 sda 100 1 2000 30 200 2 4000 60 0 70 90 0 0 0 0 0 0\n"+
		"   8       1 sda1 100 1 2000 30 200 2 4000 60 0 70 90 0 0 0 0 0 0\n"), func(n []byte) bool {
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
