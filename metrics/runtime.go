package metrics

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// runtimeCollector yields the series of the Go runtime under the names that Prometheus's own client gives them, so that
// existing dashboards work.
type runtimeCollector struct {
	series []runtimeSeries
	build  []string // labels of go_build_info

	mu      sync.Mutex // guards samples
	samples []runtimemetrics.Sample
}

// runtimeSeries is the sum of some of package runtime/metrics' values.
type runtimeSeries struct {
	expo.Series
	sum []int // indexes into samples
}

// runtimeNames are the series that come from runtime/metrics, with the values that they sum.
var runtimeNames = []struct {
	name, help string
	kind       expo.Kind
	sum        []string
}{
	{"go_gc_gogc_percent", "Heap size target percentage that GOGC or debug.SetGCPercent set", expo.Gauge,
		[]string{"/gc/gogc:percent"}},
	{"go_gc_gomemlimit_bytes", "Memory limit that GOMEMLIMIT or debug.SetMemoryLimit set", expo.Gauge,
		[]string{"/gc/gomemlimit:bytes"}},
	{"go_sched_gomaxprocs_threads", "Threads that may run Go code at a time", expo.Gauge,
		[]string{"/sched/gomaxprocs:threads"}},
	{"go_goroutines", "Goroutines that exist", expo.Gauge, []string{"/sched/goroutines:goroutines"}},
	{"go_memstats_alloc_bytes", "Heap bytes in use", expo.Gauge, []string{heapObjects}},
	{"go_memstats_alloc_bytes_total", "Heap bytes allocated so far", expo.Counter, []string{"/gc/heap/allocs:bytes"}},
	{"go_memstats_sys_bytes", "Bytes obtained from the system", expo.Gauge, []string{"/memory/classes/total:bytes"}},
	{"go_memstats_mallocs_total", "Heap objects allocated so far", expo.Counter,
		[]string{"/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects"}},
	{"go_memstats_frees_total", "Heap objects freed so far", expo.Counter,
		[]string{"/gc/heap/frees:objects", "/gc/heap/tiny/allocs:objects"}},
	{"go_memstats_heap_alloc_bytes", "Heap bytes in use", expo.Gauge, []string{heapObjects}},
	{"go_memstats_heap_sys_bytes", "Heap bytes obtained from the system", expo.Gauge,
		[]string{heapObjects, heapUnused, heapReleased, heapFree}},
	{"go_memstats_heap_idle_bytes", "Heap bytes that wait to be used", expo.Gauge, []string{heapReleased, heapFree}},
	{"go_memstats_heap_inuse_bytes", "Heap bytes in spans that are in use", expo.Gauge,
		[]string{heapObjects, heapUnused}},
	{"go_memstats_heap_released_bytes", "Heap bytes given back to the system", expo.Gauge, []string{heapReleased}},
	{"go_memstats_heap_objects", "Heap objects in use", expo.Gauge, []string{"/gc/heap/objects:objects"}},
	{"go_memstats_stack_inuse_bytes", "Bytes of goroutines' stacks", expo.Gauge, []string{heapStacks}},
	{"go_memstats_stack_sys_bytes", "Bytes of all stacks", expo.Gauge,
		[]string{heapStacks, "/memory/classes/os-stacks:bytes"}},
	{"go_memstats_mspan_inuse_bytes", "Bytes of mspan structures in use", expo.Gauge, []string{mspanInUse}},
	{"go_memstats_mspan_sys_bytes", "Bytes of mspan structures", expo.Gauge,
		[]string{mspanInUse, "/memory/classes/metadata/mspan/free:bytes"}},
	{"go_memstats_mcache_inuse_bytes", "Bytes of mcache structures in use", expo.Gauge, []string{mcacheInUse}},
	{"go_memstats_mcache_sys_bytes", "Bytes of mcache structures", expo.Gauge,
		[]string{mcacheInUse, "/memory/classes/metadata/mcache/free:bytes"}},
	{"go_memstats_buck_hash_sys_bytes", "Bytes of the profiler's hash table", expo.Gauge,
		[]string{"/memory/classes/profiling/buckets:bytes"}},
	{"go_memstats_gc_sys_bytes", "Bytes of the garbage collector's own data", expo.Gauge,
		[]string{"/memory/classes/metadata/other:bytes"}},
	{"go_memstats_other_sys_bytes", "Bytes of other data of the runtime", expo.Gauge,
		[]string{"/memory/classes/other:bytes"}},
	{"go_memstats_next_gc_bytes", "Heap size at which the next garbage collection begins", expo.Gauge,
		[]string{"/gc/heap/goal:bytes"}},
}

const (
	heapObjects  = "/memory/classes/heap/objects:bytes"
	heapUnused   = "/memory/classes/heap/unused:bytes"
	heapReleased = "/memory/classes/heap/released:bytes"
	heapFree     = "/memory/classes/heap/free:bytes"
	heapStacks   = "/memory/classes/heap/stacks:bytes"
	mspanInUse   = "/memory/classes/metadata/mspan/inuse:bytes"
	mcacheInUse  = "/memory/classes/metadata/mcache/inuse:bytes"
)

func newRuntimeCollector() *runtimeCollector {
	c := &runtimeCollector{build: []string{"path", "unknown", "version", "unknown", "checksum", "unknown"}}
	if b, ok := debug.ReadBuildInfo(); ok {
		c.build = []string{"path", b.Main.Path, "version", b.Main.Version, "checksum", b.Main.Sum}
	}
	at := map[string]int{}
	for _, n := range runtimeNames {
		s := runtimeSeries{Series: expo.Series{Name: n.name, Help: n.help, Kind: n.kind}}
		for _, name := range n.sum {
			if _, ok := at[name]; !ok {
				at[name] = len(c.samples)
				c.samples = append(c.samples, runtimemetrics.Sample{Name: name})
			}
			s.sum = append(s.sum, at[name])
		}
		c.series = append(c.series, s)
	}
	return c
}

// Collect implements Collector.
func (c *runtimeCollector) Collect(s *Scrape) {
	c.addSeries(s)
	s.Gauge("go_threads", "Threads of the operating system that were created",
		float64(pprof.Lookup("threadcreate").Count()))
	s.Gauge("go_info", "Version of Go", 1, "version", runtime.Version())
	s.Gauge("go_build_info", "Main module of the program", 1, c.build...)

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	s.Gauge("go_memstats_last_gc_time_seconds", "Time of the last garbage collection, in seconds since 1970",
		float64(gc.LastGC.UnixNano())/1e9)
	var quantiles []expo.Quantile
	for i, d := range gc.PauseQuantiles {
		quantiles = append(quantiles, expo.Quantile{Q: float64(i) / 4, Value: d.Seconds()})
	}
	pauses := expo.Series{Name: "go_gc_duration_seconds", Help: "Pauses of the garbage collector", Kind: expo.Summary}
	s.page.Family(&pauses).Summary(expo.Labels{}, quantiles, gc.PauseTotal.Seconds(), uint64(gc.NumGC))
}

func (c *runtimeCollector) addSeries(s *Scrape) {
	c.mu.Lock()
	defer c.mu.Unlock()
	runtimemetrics.Read(c.samples)
	for i := range c.series {
		var sum uint64
		for _, j := range c.series[i].sum {
			if v := c.samples[j].Value; v.Kind() == runtimemetrics.KindUint64 {
				sum += v.Uint64()
			}
		}
		s.page.Family(&c.series[i].Series).Count(expo.Labels{}, expo.Labels{}, sum)
	}
}

func (*runtimeCollector) String() string { return "the Go runtime" }
