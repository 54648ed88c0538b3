// Package cdn compares hits of tierkit's edge cache with a net/http handler that writes from memory, each in a process of
// its own, with wrk as the client:
//
//	go test -bench . -benchtime 1x ./cdn          (needs wrk)
package cdn

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tierkit/tierkit/cdn"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("CDN_ROLE"); role != "" {
		serve(role)
		return
	}
	os.Exit(m.Run())
}

func serve(role string) {
	size, _ := strconv.Atoi(os.Getenv("CDN_SIZE"))
	body := bytes.Repeat([]byte("x"), size)
	length := []string{strconv.Itoa(size)}
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header["Content-Type"] = []string{"text/plain"}
		header["Content-Length"] = length
		header["Cache-Control"] = []string{"max-age=3600"}
		w.Write(body)
	})
	if role == "tierkit" {
		c, err := cdn.New(cdn.Options{MaxBytes: 512 << 20})
		if err != nil {
			panic(err)
		}
		h = c.Handler(h)
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

var (
	total = regexp.MustCompile(`(\d+) requests in`)
	rate  = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
)

func BenchmarkHit(b *testing.B) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Skip("wrk is not installed")
	}
	for _, size := range []int{1 << 10, 100 << 10, 10 << 20} {
		for round := range 3 { // interleaved, so that a change of the machine's load hits all alike
			for _, role := range []string{"limit", "tierkit"} {
				b.Run(fmt.Sprintf("%dKiB-round%d/%s", size>>10, round, role), func(b *testing.B) {
					cmd := exec.Command(os.Args[0], "-test.run=^$")
					cmd.Env = append(os.Environ(), "CDN_ROLE="+role, "CDN_SIZE="+strconv.Itoa(size))
					in, _ := cmd.StdinPipe()
					out, _ := cmd.StdoutPipe()
					if err := cmd.Start(); err != nil {
						b.Fatal(err)
					}
					defer cmd.Wait()
					defer in.Close()
					line, err := bufio.NewReader(out).ReadString('\n')
					if err != nil {
						b.Fatal(err)
					}
					for b.Loop() {
						before := cpu(cmd.Process.Pid)
						conns := "64"
						if size > 1<<20 {
							conns = "16"
						}
						res, err := exec.Command(wrk, "-t2", "-c"+conns, "-d2s", "http://"+strings.TrimSpace(line)+"/").CombinedOutput()
						if err != nil {
							b.Fatalf("%v\n%s", err, res)
						}
						n, _ := strconv.ParseFloat(string(total.FindSubmatch(res)[1]), 64)
						r, _ := strconv.ParseFloat(string(rate.FindSubmatch(res)[1]), 64)
						b.ReportMetric(r, "req/s")
						b.ReportMetric(float64((cpu(cmd.Process.Pid)-before).Microseconds())/n, "cpu-us/op")
						b.ReportMetric(0, "ns/op")
					}
				})
			}
		}
	}
}

// cpu is the CPU time that a process has used.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
