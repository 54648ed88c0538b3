// Package lb compares tierkit's reverse proxy with nginx, HAProxy, Caddy, oxy and net/http's ReverseProxy, stock and
// tuned, each in a process of its own in front of one backend (nginx, see contender.Backend), with wrk as the client:
//
//	go test -bench . -benchtime 1x ./lb -rounds 5 [-contenders nginx,tierkit,tuned] [-sizes 100,10000] [-time 2s]
//
// Every contender runs once a round, so that a change of the machine's load hits all alike; the figures are medians of
// the rounds. cpu-us/req is the CPU time per request of the proxy's own process, which other load disturbs less than
// requests per second. foreign-cores is what other processes took meanwhile: above 0.1 read ratios only. limit is a
// net/http handler that answers by itself: what no handler can beat. Half load is an open loop at half of the requests
// per second that tierkit reached: latency counts from when a request was due.
package lb

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkit/tierkit/benchmarks/lb/contender"
)

var (
	rounds   = flag.Int("rounds", 3, "measurements of each contender, interleaved")
	names    = flag.String("contenders", "nginx,haproxy,nginx-all,haproxy-all,caddy,oxy,stock,tuned,tierkit,tierkit-front,limit", "which proxies")
	tcp      = flag.String("tcp", "haproxy-tcp,haproxy-tcp-all,tierkit-tcp", "which proxies of connections")
	sizes    = flag.String("sizes", "100,10000", "bytes of the answers")
	length   = flag.Duration("time", 2*time.Second, "of one measurement, in whole seconds")
	clean    = flag.Float64("clean", 0.1, "cores that other processes may take; a measurement above is made again, up to four times, and the cleanest counts")
	backends = flag.String("backend", "once",
		"how the backend writes its answer: once, or head and body in turn (sendfile)")
	conns = flag.Int("conns", 64, "connections of the client")
)

func TestMain(m *testing.M) {
	contender.Main()
	os.Exit(m.Run())
}

func BenchmarkProxy(b *testing.B) { compare(b, *names, true) }
func BenchmarkTCP(b *testing.B)   { compare(b, *tcp, false) }

// sample is one measurement.
// 1/s, us, us, us, us, us, cores, cores, MiB
type sample struct{ rate, cpu, p50, p99, half50, half99, foreign, halfForeign, rss float64 }

func compare(b *testing.B, list string, half bool) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("wrk is not installed")
	}
	for _, s := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		os.Setenv("LB_SIZE", s)
		b.Run(s+"B", func(b *testing.B) {
			backend, err := contender.Backend(size, *backends).Start("")
			if errors.Is(err, contender.ErrMissing) {
				b.Skip("nginx is not installed")
			}
			if err != nil {
				b.Fatal(err)
			}
			defer backend.Stop()
			var order []string
			running := map[string]*contender.Process{}
			for _, name := range strings.Split(list, ",") {
				c, err := contender.Named(name)
				if err != nil {
					b.Fatal(err)
				}
				p, err := c.Start(backend.Addr)
				if errors.Is(err, contender.ErrMissing) {
					b.Logf("%s is not installed", name)
					continue
				}
				if err != nil {
					b.Fatal(err)
				}
				defer p.Stop()
				running[name] = p
				order = append(order, name)
			}
			all := map[string][]sample{}
			for range *rounds {
				for _, name := range order {
					all[name] = append(all[name], cleanest(func() sample {
						return measure(b, wrk, running[name], backend)
					}))
				}
			}
			if ours := median(all["tierkit"], func(s sample) float64 { return s.rate }); half && ours > 0 {
				for r := range *rounds {
					for _, name := range order {
						if overloaded(all[name], ours/2) {
							continue // what it can't serve at all says nothing
						}
						h := cleanest(func() (s sample) {
							defer watchForeign(&s, running[name], backend)()
							if s.half50, s.half99,
								err = openLoop(running[name].Addr, ours/2, *conns, *length); err != nil {
								b.Fatalf("%s: %v", name, err)
							}
							return s
						})
						all[name][r].half50, all[name][r].half99, all[name][r].halfForeign = h.half50, h.half99,
							h.foreign
					}
				}
			}
			for _, name := range order {
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
					}
					for unit, of := range map[string]func(sample) float64{
						"req/s": func(s sample) float64 {
							return s.rate
						}, "cpu-us/req": func(s sample) float64 { return s.cpu },
						"p50-us": func(s sample) float64 {
							return s.p50
						}, "p99-us": func(s sample) float64 { return s.p99 },
						"half-p50-us": func(s sample) float64 {
							return s.half50
						}, "half-p99-us": func(s sample) float64 { return s.half99 },
						"rss-MiB": func(s sample) float64 { return s.rss },
						"foreign-cores": func(s sample) float64 {
							return s.foreign
						}, "half-foreign-cores": func(s sample) float64 { return s.halfForeign },
					} {
						b.ReportMetric(median(all[name], of), unit)
					}
					b.ReportMetric(0, "ns/op")
				})
			}
		})
	}
}

func median(samples []sample, of func(sample) float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	vs := make([]float64, len(samples))
	for i, s := range samples {
		vs[i] = of(s)
	}
	slices.Sort(vs)
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

var (
	total   = regexp.MustCompile(`(\d+) requests in`)
	rate    = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	p50     = regexp.MustCompile(`50%\s+([\d.]+)(us|ms|s)`)
	p99     = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
	trouble = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: .*`)
)

func measure(b *testing.B, wrk string, p, backend *contender.Process) (s sample) {
	cpu := p.CPU()
	cmd := exec.Command(wrk, "-t2", "-c"+strconv.Itoa(*conns), fmt.Sprintf("-d%ds", max(1, int(length.Seconds()))),
		"--latency", "http://"+p.Addr+"/")
	stop := watchForeign(&s, p, backend)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	stop()
	if m := trouble.Find(out); m != nil {
		b.Fatalf("%s", m)
	}
	s.rate = number(rate.FindSubmatch(out)[1])
	s.cpu = float64((p.CPU() - cpu).Microseconds()) / number(total.FindSubmatch(out)[1])
	s.rss = float64(p.Resident()) / (1 << 20)
	s.p50, s.p99 = micros(p50.FindSubmatch(out)), micros(p99.FindSubmatch(out))
	return s
}

// watchForeign measures, until its result is called, how many cores are busy with other things than the benchmark.
func watchForeign(s *sample, ps ...*contender.Process) (stop func()) {
	own := func() time.Duration {
		sum := contender.Self()
		for _, p := range ps {
			sum += p.CPU()
		}
		return sum
	}
	start, busy, used := time.Now(), contender.Busy(), own()
	return func() {
		s.foreign = (contender.Busy() - busy - (own() - used)).Seconds() / time.Since(start).Seconds()
	}
}

func cleanest(measure func() sample) sample {
	best := measure()
	for range 3 {
		if best.foreign <= *clean {
			break
		}
		if s := measure(); s.foreign < best.foreign {
			best = s
		}
	}
	return best
}

func overloaded(samples []sample, rate float64) bool {
	return median(samples, func(s sample) float64 { return s.rate }) < rate*1.2
}

func number(b []byte) float64 { f, _ := strconv.ParseFloat(string(b), 64); return f }

func micros(m [][]byte) float64 {
	if m == nil {
		return 0
	}
	d, _ := time.ParseDuration(fmt.Sprintf("%s%s", m[1], m[2]))
	return float64(d.Microseconds())
}
