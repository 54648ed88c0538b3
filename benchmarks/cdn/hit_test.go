// Package cdn compares hits of tierkit's edge cache with nginx's and Varnish's and with a net/http handler that writes
// from memory, each in processes of its own, with wrk as the client:
//
//	go test -bench . -benchtime 1x ./cdn          (needs wrk; nginx and varnish are left out when they are missing)
//
// limit is the handler, with the header fields that a hit has; tierkit-disk has the object on disk only and serves it
// through sendfile. cpu-us/op is the CPU time per request of the server and its children. The rounds of all contenders
// are interleaved, so that a change of the machine's load hits all alike, and each figure is the median of the rounds.
package cdn

import (
	"bytes"
	"cmp"
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
	if role := os.Getenv("CDN_ROLE"); role != "" {
		serve(role, os.Getenv("CDN_ADDR"))
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
	rounds = flag.Int("rounds", 3, "how often each contender is measured")
	only   = flag.String("contenders", "", "measure only those whose name matches this regular expression")
	total  = regexp.MustCompile(`(\d+) requests in`)
	rate   = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	slow   = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
	failed = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)`)
)

// figures of one round.
type figures struct{ rate, cpu, p99 float64 }

func BenchmarkHit(b *testing.B) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("wrk is not installed")
	}
	sizes := []int{1 << 10, 100 << 10, 10 << 20}
	seen := map[string][]figures{}
	wanted := regexp.MustCompile(*only)
	all := slices.DeleteFunc(contenders(b), func(c contender) bool { return !wanted.MatchString(c.name) })
	for range *rounds {
		for _, size := range sizes {
			for _, c := range all {
				name := fmt.Sprintf("%dKiB/%s", size>>10, c.name)
				if f, ok := c.measure(b, wrk, size); ok {
					seen[name] = append(seen[name], f)
				}
			}
		}
	}
	for _, size := range sizes {
		for _, c := range all {
			name := fmt.Sprintf("%dKiB/%s", size>>10, c.name)
			if len(seen[name]) == 0 {
				continue
			}
			b.Run(name, func(b *testing.B) {
				for b.Loop() { // measured above
				}
				median := func(f func(figures) float64) float64 {
					fs := slices.SortedFunc(slices.Values(seen[name]), func(x, y figures) int {
						return cmp.Compare(f(x), f(y))
					})
					return f(fs[len(fs)/2])
				}
				b.ReportMetric(median(func(f figures) float64 { return f.rate }), "req/s")
				b.ReportMetric(median(func(f figures) float64 { return f.cpu }), "cpu-us/op")
				b.ReportMetric(median(func(f figures) float64 { return f.p99 }), "p99-ms")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// measure starts a contender, fills its cache, and asks it for two seconds.
func (c contender) measure(b *testing.B, wrk string, size int) (f figures, ok bool) {
	if size < c.least {
		return f, false
	}
	addr, pid, stop := c.start(b, size)
	defer stop()
	url := "http://" + addr + "/" + strconv.Itoa(size)
	await(b, c.name, url, size)
	conns := "64"
	if size > 1<<20 {
		conns = "16"
	}
	before := cpu(pid)
	res, err := exec.Command(wrk, "-t2", "-c"+conns, "-d2s", "--latency", url).CombinedOutput()
	used := cpu(pid) - before
	if err != nil || failed.Match(res) {
		b.Fatalf("%s: %v\n%s", c.name, err, res)
	}
	n, err := strconv.ParseFloat(string(total.FindSubmatch(res)[1]), 64)
	check(err)
	r, err := strconv.ParseFloat(string(rate.FindSubmatch(res)[1]), 64)
	check(err)
	m := slow.FindSubmatch(res)
	p, err := strconv.ParseFloat(string(m[1]), 64)
	check(err)
	p *= map[string]float64{"us": 1e-3, "ms": 1, "s": 1e3}[string(m[2])]
	return figures{r, float64(used.Microseconds()) / n, p}, true
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
