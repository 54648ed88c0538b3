package cdn

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/tierkit/tierkit/cdn"
)

const memoryBudget = 256 << 20

type memory struct{ Heap, RSS, Peak, Objects float64 }

// fillMillion puts a million distinct URLs of 1 to 8 KB through a cache, in a process of its own, and tells what that
// took.
func fillMillion() {
	c, err := cdn.New(cdn.Options{MaxBytes: memoryBudget})
	check(err)
	body := strings.Repeat("x", 8<<10)
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Control"] = []string{"max-age=3600"}
		w.Header()["Content-Type"] = []string{"text/plain"}
		w.Write([]byte(body[:1<<10+len(r.URL.Path)*7919%(7<<10)]))
	}))
	w := &nobody{}
	for i := range 1_000_000 {
		w.h = http.Header{}
		h.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint("http://a.example/photos/", i), nil))
	}
	m := memory{RSS: status("VmRSS"), Peak: status("VmHWM"), Objects: float64(c.Stats().Objects)}
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.Heap = float64(s.HeapAlloc)
	runtime.KeepAlive(c)
	json.NewEncoder(os.Stdout).Encode(m)
}

type nobody struct{ h http.Header }

func (n *nobody) Header() http.Header         { return n.h }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }

// status is a line of /proc/self/status, in bytes.
func status(name string) float64 {
	b, err := os.ReadFile("/proc/self/status")
	check(err)
	for line := range strings.Lines(string(b)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, name+":%f kB", &kb); n == 1 {
			return kb * 1024
		}
	}
	panic(name)
}

// BenchmarkMillionURLs: how the memory compares with the budget after a million distinct URLs. The heap is what lives;
// the process holds more, because the garbage collector lets the heap grow before it runs.
func BenchmarkMillionURLs(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CDN_ROLE=memory")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		check(err)
		var m memory
		check(json.Unmarshal(out, &m))
		b.ReportMetric(m.Heap/memoryBudget, "heap/budget")
		b.ReportMetric(m.RSS/memoryBudget, "rss/budget")
		b.ReportMetric(m.Peak/memoryBudget, "peak-rss/budget")
		b.ReportMetric(m.Objects, "objects")
	}
}
