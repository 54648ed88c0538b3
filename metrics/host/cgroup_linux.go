package host

import (
	"bytes"
	"path/filepath"
	"strings"
	"time"
)

// cgroup is one level of a hierarchy of control groups; each may limit what is below. A process in a container must not
// believe in the machine's processors and memory. Files of the other version, and those of controllers that the group
// has not, have no path.
type cgroup struct {
	cpuMax               procFile // version 2: quota and period
	cpuQuota, cpuPeriod  procFile // version 1
	memoryMax            procFile
	memoryUsed           procFile
	memoryStat           procFile
	inactiveFile         string // the line of memoryStat that counts page cache which can be dropped
	limitSpelledAsNumber bool   // version 1 writes no limit as a huge number
}

// cgroupsOf returns the groups of a process from the innermost to the root, and the file that counts throttling. The
// root is where the hierarchies are mounted, and own the content of /proc/self/cgroup. In a container without a
// namespace for groups the path of own does not exist below root: its group is mounted as the root itself.
func cgroupsOf(root, own string) (groups []cgroup, cpuStat string) {
	for line := range strings.Lines(own) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		if id == "0" && controllers == "" { // version 2; beside version 1 it has no controllers
			for _, d := range levels(root, path) {
				groups = append(groups, cgroup{cpuMax: procFile{path: d + "/cpu.max"},
					memoryMax: procFile{path: d + "/memory.max"}, memoryUsed: procFile{path: d + "/memory.current"},
					memoryStat: procFile{path: d + "/memory.stat"}, inactiveFile: "inactive_file"})
			}
			if cpuStat == "" {
				cpuStat = levels(root, path)[0] + "/cpu.stat"
			}
			continue
		}
		for _, c := range strings.Split(controllers, ",") {
			switch c {
			case "cpu":
				for _, d := range levels(mountOf(root, controllers, c), path) {
					groups = append(groups, cgroup{cpuQuota: procFile{path: d + "/cpu.cfs_quota_us"},
						cpuPeriod: procFile{path: d + "/cpu.cfs_period_us"}})
				}
				cpuStat = levels(mountOf(root, controllers, c), path)[0] + "/cpu.stat"
			case "memory":
				for _, d := range levels(mountOf(root, controllers, c), path) {
					groups = append(groups, cgroup{memoryMax: procFile{path: d + "/memory.limit_in_bytes"},
						memoryUsed: procFile{path: d + "/memory.usage_in_bytes"},
						memoryStat: procFile{path: d + "/memory.stat"}, inactiveFile: "total_inactive_file",
						limitSpelledAsNumber: true})
				}
			}
		}
	}
	return groups, cpuStat
}

// mountOf returns where a hierarchy of version 1 is mounted: under the names of all of its controllers, or of one.
func mountOf(root, controllers, one string) string {
	if d := filepath.Join(root, controllers); isDir(d) {
		return d
	}
	return filepath.Join(root, one)
}

// levels returns the directories of a group and of those above it.
func levels(root, path string) (dirs []string) {
	d := filepath.Join(root, path)
	if !isDir(d) {
		d = root
	}
	for ; strings.HasPrefix(d, root); d = filepath.Dir(d) {
		dirs = append(dirs, d)
	}
	return dirs
}

// noLimit is what version 1 writes, rounded down to pages of up to 64 KiB.
const noLimit = 1<<63 - 1<<16

// limit lowers what the machine has to what the group may use.
func (g *cgroup) limit(s *Stats) {
	quota, rest := word(g.cpuMax.read())
	period, _ := word(rest)
	if g.cpuQuota.path != "" {
		quota, _ = word(g.cpuQuota.read())
		period, _ = word(g.cpuPeriod.read())
	}
	s.limitCPU(quota, period)
	limit, _ := word(g.memoryMax.read())
	used, _ := word(g.memoryUsed.read())
	if g.limitSpelledAsNumber && number(limit) >= noLimit {
		return
	}
	s.limitMemory(limit, used, valueOf(g.memoryStat.read(), g.inactiveFile))
}

// limitCPU applies a quota of microseconds per period; "max" and "-1" are none.
func (s *Stats) limitCPU(quota, period []byte) {
	q, p := number(quota), number(period)
	if p > 0 && q > 0 {
		s.CPULimit = min(s.CPULimit, float64(q)/float64(p))
	}
}

// limitMemory applies a limit. Page cache that was not used for long counts as free, because the kernel drops it before
// anything is killed: what remains is the working set, by which kubelet evicts and its metrics are known.
func (s *Stats) limitMemory(limit, used []byte, inactiveFile uint64) {
	if len(limit) == 0 || len(used) == 0 || string(limit) == "max" {
		return
	}
	l, u := number(limit), number(used)
	workingSet := u - min(inactiveFile, u)
	if l < s.MemoryTotal {
		s.MemoryTotal = l
	}
	s.MemoryFree = min(s.MemoryFree, l-min(l, workingSet))
}

// valueOf returns the number on the line that begins with name.
func valueOf(b []byte, name string) uint64 {
	for len(b) > 0 {
		var line []byte
		line, b = nextLine(b)
		if key, rest := word(line); string(key) == name {
			n, _ := word(rest)
			return number(n)
		}
	}
	return 0
}

// throttled reads cpu.stat of either version.
func (s *Stats) throttled(b []byte) {
	if bytes.Contains(b, []byte("throttled_usec ")) {
		s.Throttled = time.Duration(valueOf(b, "throttled_usec")) * time.Microsecond
	} else {
		s.Throttled = time.Duration(valueOf(b, "throttled_time"))
	}
}
