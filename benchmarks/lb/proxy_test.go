// Package lb compares tierkit's reverse proxy with net/http's, stock and tuned, each in a process of its own in front of one
// backend, with wrk as the client:
//
//	go test -bench . -benchtime 1x ./lb          (needs wrk)
//
// cpu-us/op is the proxy's own CPU time per request, which other load on the machine disturbs less than requests per
// second. limit is a bare net/http handler that answers by itself: what no handler can beat.
package lb

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkit/tierkit/lb"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("LB_ROLE"); role != "" {
		serve(role, os.Getenv("LB_BACKEND"))
		return
	}
	os.Exit(m.Run())
}

func serve(role, backend string) {
	size, _ := strconv.Atoi(os.Getenv("LB_SIZE"))
	body := bytes.Repeat([]byte("x"), size)
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = []string{"text/plain"}
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
		w.Write(body)
	})
	var h http.Handler
	u := &url.URL{Scheme: "http", Host: backend}
	switch role {
	case "backend", "limit":
		h = hello
	case "stock":
		h = httputil.NewSingleHostReverseProxy(u)
	case "tuned":
		p := httputil.NewSingleHostReverseProxy(u)
		p.Transport = &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 512, DisableCompression: true}
		p.BufferPool = pool{}
		h = p
	case "tierkit":
		b, err := lb.New([]lb.Endpoint{{Addr: backend}}, lb.Options{})
		if err != nil {
			panic(err)
		}
		h = b.Handler()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() { // ends with its parent
		bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}()
	http.Serve(l, h)
}

type pool struct{}

var free = make(chan []byte, 1024)

func (pool) Get() []byte {
	select {
	case b := <-free:
		return b
	default:
		return make([]byte, 32<<10)
	}
}

func (pool) Put(b []byte) {
	select {
	case free <- b:
	default:
	}
}

type child struct {
	addr string
	cmd  *exec.Cmd
}

func start(b *testing.B, role, backend string, size int) *child {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "LB_ROLE="+role, "LB_BACKEND="+backend, "LB_SIZE="+strconv.Itoa(size))
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return &child{strings.TrimSpace(line), cmd}
}

// cpu is the CPU time that the process has used, from /proc.
func (c *child) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

var (
	total   = regexp.MustCompile(`(\d+) requests in`)
	rate    = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	p99     = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
	trouble = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: .*`)
)

func BenchmarkProxy(b *testing.B) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("wrk is not installed")
	}
	duration := "2s"
	if d := os.Getenv("LB_DURATION"); d != "" {
		duration = d
	}
	for _, size := range []int{100, 10_000} {
		for round := range 3 { // interleaved, so that a change of the machine's load hits all alike
			for _, role := range []string{"limit", "tierkit", "tuned", "stock"} {
				b.Run(fmt.Sprintf("%dB-round%d/%s", size, round, role), func(b *testing.B) {
					backend := start(b, "backend", "", size)
					c := start(b, role, backend.addr, size)
					for b.Loop() {
						before := c.cpu()
						out, err := exec.Command(wrk, "-t2", "-c64", "-d"+duration, "--latency", "http://"+c.addr+"/").CombinedOutput()
						if err != nil {
							b.Fatalf("%v\n%s", err, out)
						}
						if m := trouble.Find(out); m != nil {
							b.Fatalf("%s", m)
						}
						n, _ := strconv.ParseFloat(string(total.FindSubmatch(out)[1]), 64)
						r, _ := strconv.ParseFloat(string(rate.FindSubmatch(out)[1]), 64)
						b.ReportMetric(r, "req/s")
						b.ReportMetric(float64((c.cpu()-before).Microseconds())/n, "cpu-us/op")
						if m := p99.FindSubmatch(out); m != nil {
							d, _ := time.ParseDuration(string(m[1]) + string(m[2]))
							b.ReportMetric(float64(d.Microseconds()), "p99-us")
						}
						b.ReportMetric(0, "ns/op")
					}
				})
			}
		}
	}
}
