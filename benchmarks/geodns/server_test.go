// Package geodns compares tierkit's name server with a bare miekg/dns server, CoreDNS, NSD and Knot, each in a process
// of its own on one core, with dnsperf as the client:
//
//	go test -bench . -benchtime 1x ./geodns          (needs dnsperf; NSD and Knot are left out when they are missing)
//
// limit is an echo on recvmmsg and sendmmsg, the least that a Go program can do; echo reads and writes one packet at a
// time. cpu-us/op is the server's CPU time per answer, with that of its child processes; geo queries carry a client
// subnet and are answered by its place. The rounds of all contenders are interleaved, and each figure is the median of
// the rounds.
package geodns

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("DNS_ROLE"); role != "" {
		serve(role, os.Getenv("DNS_ADDR"))
		return
	}
	os.Exit(m.Run())
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

var (
	only   = flag.String("contenders", "", "measure only those whose work/contender matches this regular expression")
	rounds = flag.Int("rounds", 3, "how often each contender is measured")
)

var (
	rate = regexp.MustCompile(`Queries per second:\s+([\d.]+)`)
	done = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	lost = regexp.MustCompile(`Queries lost:\s+(\d+)`)
	mean = regexp.MustCompile(`Average Latency \(s\):\s+([\d.]+)`)
)

// figures of one round.
type figures struct{ rate, cpu, lost, latency float64 }

func BenchmarkServer(b *testing.B) {
	dnsperf, err := exec.LookPath("dnsperf")
	if err != nil {
		b.Skip("dnsperf is not installed")
	}
	dir := b.TempDir()
	static := filepath.Join(dir, "static")
	var lines bytes.Buffer
	for i := range hosts {
		fmt.Fprintf(&lines, "h%d.example.test A\n", i)
	}
	check(os.WriteFile(static, lines.Bytes(), 0o600))
	geo := filepath.Join(dir, "geo")
	check(os.WriteFile(geo, []byte("geo.example.test A\n"), 0o600))
	wanted := regexp.MustCompile(*only)
	all := slices.DeleteFunc(contenders(b, dir), func(c contender) bool { return !wanted.MatchString(c.name) })
	seen := map[string][]figures{}
	for range *rounds {
		for _, c := range all {
			args := []string{"-l", "2", "-c", "4", "-q", "100"}
			if c.geo() {
				args = append(args, "-d", geo, "-E", "8:0001180081bbfe") // 129.187.254.0/24
			} else {
				args = append(args, "-d", static)
			}
			seen[c.name] = append(seen[c.name], c.measure(b, dnsperf, args))
		}
	}
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() { // measured above
			}
			median := func(f func(figures) float64) float64 {
				var v []float64
				for _, x := range seen[c.name] {
					v = append(v, f(x))
				}
				slices.Sort(v)
				return v[len(v)/2]
			}
			b.ReportMetric(median(func(f figures) float64 { return f.rate }), "q/s")
			b.ReportMetric(median(func(f figures) float64 { return f.cpu }), "cpu-us/op")
			b.ReportMetric(median(func(f figures) float64 { return f.latency }), "latency-us")
			b.ReportMetric(median(func(f figures) float64 { return f.lost }), "lost")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// measure starts the contender, waits until it answers rightly, and asks it for two seconds.
func (c contender) measure(b *testing.B, dnsperf string, args []string) figures {
	addr := freePort()
	stop := c.start(b, addr)
	defer stop()
	pid := c.await(b, addr)
	host, port, _ := strings.Cut(addr, ":")
	before := cpu(pid)
	res, err := exec.Command(dnsperf, append([]string{"-s", host, "-p", port}, args...)...).CombinedOutput()
	used := cpu(pid) - before
	if err != nil {
		b.Fatalf("%v\n%s", err, res)
	}
	number := func(re *regexp.Regexp) float64 {
		m := re.FindSubmatch(res)
		if m == nil {
			b.Fatalf("dnsperf says:\n%s", res)
		}
		n, err := strconv.ParseFloat(string(m[1]), 64)
		check(err)
		return n
	}
	return figures{number(rate), float64(used.Microseconds()) / number(done), number(lost), number(mean) * 1e6}
}

// cpu is the CPU time that a process group has used.
func cpu(group int) (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[2] != strconv.Itoa(group) {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}
