package host

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// hostReader keeps the files of /proc open: reading one again costs half of opening it first. They stay open as long as
// the process lives.
type hostReader struct {
	mu                              sync.Mutex // guards the files' buffers
	load, stat, meminfo, disks, net procFile
	pressure                        [3]procFile
	cpuStat                         procFile
	groups                          []cgroup
	whole                           map[string]bool // disk names that are neither partitions nor made of other disks
}

type procFile struct {
	path string
	f    *os.File
	gone bool
	buf  []byte
}

// read returns the file's content until the next read, nil when there is none.
func (p *procFile) read() []byte {
	if p.f == nil {
		if p.gone || p.path == "" {
			return nil
		}
		f, err := os.Open(p.path)
		if err != nil {
			p.gone = true
			return nil
		}
		p.f, p.buf = f, make([]byte, 4096)
	}
	for {
		n, err := p.f.ReadAt(p.buf, 0)
		if n < len(p.buf) {
			if n == 0 && err != nil && err.Error() != "EOF" {
				return nil
			}
			return p.buf[:n]
		}
		p.buf = make([]byte, 2*len(p.buf))
	}
}

var hostFiles = sync.OnceValue(func() *hostReader {
	r := &hostReader{whole: map[string]bool{}}
	for path, p := range map[string]*procFile{"/proc/loadavg": &r.load, "/proc/stat": &r.stat,
		"/proc/meminfo": &r.meminfo, "/proc/diskstats": &r.disks,
		"/proc/net/dev": &r.net, "/proc/pressure/cpu": &r.pressure[0], "/proc/pressure/io": &r.pressure[1],
		"/proc/pressure/memory": &r.pressure[2]} {
		p.path = path
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	r.groups, r.cpuStat.path = cgroupsOf("/sys/fs/cgroup", string(own))
	return r
})

func isDir(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.IsDir()
}

// readHost reads what is there; what is missing stays 0.
func readHost() Stats {
	r := hostFiles()
	var s Stats
	r.mu.Lock()
	s.loads(r.load.read())
	s.cpu(r.stat.read())
	s.memory(r.meminfo.read())
	s.disks(r.disks.read(), r.wholeDisk)
	s.network(r.net.read())
	s.PressureCPU, s.PressureIO, s.PressureMemory = pressure(r.pressure[0].read()), pressure(r.pressure[1].read()),
		pressure(r.pressure[2].read())
	s.throttled(r.cpuStat.read())
	for i := range r.groups {
		r.groups[i].limit(&s)
	}
	r.mu.Unlock()
	var fs syscall.Statfs_t
	if syscall.Statfs(".", &fs) == nil {
		s.DiskTotal, s.DiskFree = fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
	}
	var st syscall.Stat_t
	if syscall.Stat("/proc/self/fd", &st) == nil && st.Size > 0 { // since Linux 6.2 its size is the number
		s.OpenFiles = int(st.Size)
	} else if d, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.OpenFiles = len(d) - 1 // without the one that reads
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		s.FilesLimit = limit.Cur
	}
	return s
}

// wholeDisk says whether a device counts: a partition, a mapping or a loop is part of another one.
func (r *hostReader) wholeDisk(name []byte) bool {
	whole, known := r.whole[string(name)]
	if !known {
		n := string(name)
		whole = isDir("/sys/block/" + n)
		for _, made := range []string{"loop", "ram", "zram", "dm-", "md"} {
			whole = whole && !strings.HasPrefix(n, made)
		}
		r.whole[n] = whole
	}
	return whole
}

// userHZ is the ticks per second of /proc/stat: 100 on every architecture Linux runs Go on.
const userHZ = 100

func (s *Stats) loads(b []byte) {
	for _, to := range []*float64{&s.Load1, &s.Load5, &s.Load15} {
		var f []byte
		f, b = word(b)
		whole, part, _ := bytes.Cut(f, []byte{'.'}) // always two places
		*to = float64(number(whole)*100+number(part)) / 100
	}
}

func (s *Stats) cpu(b []byte) {
	for len(b) > 0 {
		var line []byte
		line, b = nextLine(b)
		name, rest := word(line)
		if !bytes.HasPrefix(name, []byte("cpu")) {
			break // they come first; what follows is long
		}
		if len(name) > 3 {
			s.CPUs++
			continue
		}
		var ticks uint64
		for i := range 7 { // user nice system idle iowait irq softirq; guest time is part of user
			var f []byte
			f, rest = word(rest)
			if i != 3 && i != 4 {
				ticks += number(f)
			}
		}
		s.CPUBusySeconds = float64(ticks) / userHZ
	}
	s.CPULimit = float64(s.CPUs)
}

func (s *Stats) memory(b []byte) {
	for found := 0; len(b) > 0 && found < 2; {
		var line []byte
		line, b = nextLine(b)
		name, rest := word(line)
		n, _ := word(rest)
		switch string(name) {
		case "MemTotal:":
			s.MemoryTotal = number(n) << 10
			found++
		case "MemAvailable:":
			s.MemoryFree = number(n) << 10
			found++
		}
	}
}

// disks sums what the kernel's admin guide, iostats.rst, describes; a sector is 512 bytes whatever the disk's own are.
func (s *Stats) disks(b []byte, counts func(name []byte) bool) {
	for len(b) > 0 {
		var line, f []byte
		line, b = nextLine(b)
		for i := 0; i < 13; i++ {
			f, line = word(line)
			switch i {
			case 2:
				if !counts(f) {
					i = 13
				}
			case 5:
				s.DiskRead += number(f) * 512
			case 9:
				s.DiskWritten += number(f) * 512
			case 12:
				s.DiskBusy += time.Duration(number(f)) * time.Millisecond
			}
		}
	}
}

func (s *Stats) network(b []byte) {
	for len(b) > 0 {
		var line []byte
		line, b = nextLine(b)
		name, rest, ok := bytes.Cut(line, []byte{':'})
		if name, _ = word(name); !ok || string(name) == "lo" {
			continue
		}
		for i := range 16 { // 8 of what came, 8 of what went: bytes packets errs drop ...
			var f []byte
			f, rest = word(rest)
			switch i {
			case 0:
				s.NetReceived += number(f)
			case 8:
				s.NetSent += number(f)
			case 2, 3, 10, 11:
				s.NetErrors += number(f)
			}
		}
	}
}

// pressure reads the total of the "some" line.
func pressure(b []byte) time.Duration {
	line, _ := nextLine(b)
	if _, total, ok := bytes.Cut(line, []byte(" total=")); ok && bytes.HasPrefix(line, []byte("some ")) {
		return time.Duration(number(total)) * time.Microsecond
	}
	return 0
}

func nextLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return b, nil
	}
	return b[:i], b[i+1:]
}

// word cuts the first word off.
func word(b []byte) (w, rest []byte) {
	i := 0
	for i < len(b) && b[i] <= ' ' {
		i++
	}
	j := i
	for j < len(b) && b[j] > ' ' {
		j++
	}
	return b[i:j], b[j:]
}

// number reads decimal digits as far as they go.
func number(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}
