// Package proof compares what clients were promised with what is stored: the books of a play, and the report that it
// ends with.
package proof

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/examples/fullstack/drill"
	"github.com/tierkit/tierkit/examples/fullstack/proof/player"
	"github.com/tierkit/tierkit/metrics"
)

// Report is what a play ends with, as text and as JSON.
type Report struct {
	Requests       int64            `json:"requests"`
	ClientErrors   int              `json:"client_errors"`
	ErrorsExcused  int              `json:"client_errors_in_windows"`
	ErrorsByCause  map[string]int   `json:"errors_by_cause"`
	ErrorSamples   []string         `json:"error_samples,omitempty"`
	AckedViews     int              `json:"acked_views"`
	CountedViews   int              `json:"counted_views"`
	AckedWrites    int              `json:"acked_writes"`
	StoredWrites   int              `json:"stored_writes"`
	AckedUploads   int              `json:"acked_uploads"`
	ResizedUploads int              `json:"resized_uploads"`
	Sessions       int              `json:"sessions"`
	SessionsLost   int              `json:"sessions_lost"`
	Balanced       bool             `json:"balanced"`
	Imbalances     []string         `json:"imbalances"`
	DurationS      float64          `json:"duration_s"`
	Failovers      []drill.Failover `json:"failovers"`
	WindowsHeld    bool             `json:"windows_held"`
	Valid          bool             `json:"valid"` // the player kept its own times
	Malformed      int              `json:"malformed_lines"`

	Latency     map[string]Quantiles `json:"latency_ms"` // per tier and region
	EdgeHits    float64              `json:"edge_hit_ratio"`
	CacheHits   float64              `json:"cache_hit_ratio"`
	PerCenter   map[string]int       `json:"requests_per_center"`
	PerWeb      map[string]uint64    `json:"requests_per_web_server"`
	ReadsPer    map[string]uint64    `json:"reads_per_database_node"`
	WritesPer   map[string]uint64    `json:"writes_per_database_node"`
	Queue       map[string]float64   `json:"queue"`
	Moves       int64                `json:"autoscaler_moves"`
	PeakWorkers int                  `json:"workers_peak"`
	EndWorkers  int                  `json:"workers_at_end"`
	LeastWork   int                  `json:"workers_least"`
	OldestAge   float64              `json:"queue_oldest_age_max_s"`
	Honest404   int                  `json:"honest_404"`
	Unlocated   int                  `json:"clients_unlocated"`
	Clients     int                  `json:"clients"`
	MegaBytes   float64              `json:"megabytes"`
	Repeats     int64                `json:"write_repetitions"`
	DNSQueries  uint64               `json:"dns_queries"`
	SendLagP99  float64              `json:"send_lag_p99_ms"`
	PhotoP99    float64              `json:"photo_resized_p99_ms"`
	LongestLate float64              `json:"longest_write_ms"`
}

// Quantiles of a latency in milliseconds.
type Quantiles struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func quantiles(h metrics.HistogramSnapshot) Quantiles {
	ms := func(d time.Duration) float64 { return math.Round(float64(d.Microseconds())/10) / 100 }
	return Quantiles{h.Count, ms(h.Quantile(.5)), ms(h.Quantile(.9)), ms(h.Quantile(.99)), ms(h.Max)}
}

// sendLagLimit is how late the player itself may be at the 99th percentile: beyond it the figures say more about the
// player than about the assemble.
const sendLagLimit = 50 * time.Millisecond

// Make compares what clients were promised with what is stored.
func Make(s player.Summary, p player.Promises, b *Books, f assemble.Figures, sc assemble.Scaling,
	failovers []drill.Failover, sessions, lost int) Report {
	r := Report{
		Requests: s.Requests, AckedViews: p.ViewsTotal, CountedViews: b.ViewsTotal, AckedWrites: len(p.Writes),
		AckedUploads: len(p.Photos),
		Sessions:     sessions, SessionsLost: lost, DurationS: s.Took.Seconds(), Failovers: failovers,
		ErrorsByCause: map[string]int{}, Latency: map[string]Quantiles{}, PerCenter: s.Centers, PerWeb: f.Webs,
		ReadsPer: f.Reads, WritesPer: f.Writes,
		Moves: f.Moves, PeakWorkers: sc.PeakWorkers, EndWorkers: sc.Workers, LeastWork: sc.Least,
		OldestAge: sc.OldestAge.Seconds(),
		Honest404: s.Status[404], Unlocated: s.Unlocated, Clients: s.Clients, MegaBytes: float64(s.Bytes) / 1e6,
		Repeats:    s.Repeats,
		DNSQueries: f.DNS, SendLagP99: quantiles(s.SendLag).P99, PhotoP99: quantiles(s.Resized).P99,
		Imbalances: []string{},
		Valid:      s.SendLag.Quantile(.99) <= sendLagLimit,
	}
	r.balance(s, p, b)
	r.failures(s)
	for name, h := range f.Tiers {
		r.Latency["tier "+name] = quantiles(h)
	}
	for name, h := range s.Regions {
		r.Latency["clients near "+name] = quantiles(h)
	}
	for name, h := range s.Direct {
		r.Latency["clients near "+name+", without edge and nearest center"] = quantiles(h)
	}
	r.Latency["writes, with repetitions"] = quantiles(s.Writes)
	if all := f.EdgeSum.Hits + f.EdgeSum.Stale + f.EdgeSum.Revalidated + f.EdgeSum.Misses +
		f.EdgeSum.Collapsed; all > 0 {
		r.EdgeHits = float64(f.EdgeSum.Hits+f.EdgeSum.Stale) / float64(all)
	}
	if all := f.Cache.L1Hits + f.Cache.L2Hits + f.Cache.Loads; all > 0 {
		r.CacheHits = float64(f.Cache.L1Hits+f.Cache.L2Hits) / float64(all)
	}
	r.Queue = map[string]float64{"published": float64(f.Queue.Published), "delivered": float64(f.Queue.Delivered),
		"acked":          float64(f.Queue.Acked),
		"leases_expired": float64(f.Queue.LeaseExpired), "dead_lettered": float64(f.Queue.DeadLettered),
		"commits":         float64(f.Queue.Commits),
		"published_per_s": float64(f.Queue.Published) / max(s.Took.Seconds(), 1)}
	return r
}

// Wrong notes an imbalance.
func (r *Report) Wrong(format string, args ...any) {
	r.Imbalances = append(r.Imbalances, fmt.Sprintf(format, args...))
}

// balance: every acknowledged write is stored, every acknowledged view counted exactly once, nothing deleted is shown.
func (r *Report) balance(s player.Summary, p player.Promises, b *Books) {
	for _, id := range p.Writes {
		if b.Writes[id] {
			r.StoredWrites++
		}
	}
	if lost := len(p.Writes) - r.StoredWrites; lost > 0 {
		r.Wrong("%d acknowledged writes are not stored", lost)
	}
	pages := map[string]bool{}
	for path := range p.Views {
		pages[path] = true
	}
	for path := range b.Views {
		pages[path] = true
	}
	few, many := 0, 0
	for path := range pages {
		switch got, want := b.Views[path], p.Views[path]; {
		case got < want:
			few += want - got
		case got > want+p.OpenViews[path]: // of those whose outcome nobody learned any number may count
			many += got - want - p.OpenViews[path]
		}
	}
	if few > 0 {
		r.Wrong("%d acknowledged views are not counted", few)
	}
	if many > 0 {
		r.Wrong("%d views are counted that nobody made, or twice", many)
	}
	if b.Events != b.ViewsTotal {
		r.Wrong("%d events make %d views", b.Events, b.ViewsTotal)
	}
	if b.Likes != b.LikesSum {
		r.Wrong("%d likes are counted as %d", b.Likes, b.LikesSum)
	}
	for _, id := range p.Photos {
		if b.Thumbs[id] {
			r.ResizedUploads++
		}
	}
	if lost := len(p.Photos) - r.ResizedUploads; lost > 0 {
		r.Wrong("%d acknowledged photos were never resized", lost)
	}
	for _, id := range p.Deleted {
		if !b.Deleted[id] {
			r.Wrong("post %s is back after its deletion was acknowledged", id)
		}
	}
	if s.StaleReads > 0 {
		r.Wrong("%d times a deleted post was served", s.StaleReads)
	}
	r.Balanced = len(r.Imbalances) == 0
}

// failures sorts errors into those within the window of an injected failure and the others, and checks the windows.
func (r *Report) failures(s player.Summary) {
	r.WindowsHeld = true
	last := map[int]time.Time{}
	for _, e := range s.Errors {
		excused := false
		for i, f := range r.Failovers {
			if since := e.At.Sub(f.At); f.Excuses && since >= 0 &&
				since <= time.Duration(f.WindowMS*float64(time.Millisecond)) {
				excused = true
				if e.At.After(last[i]) {
					last[i] = e.At
				}
			}
		}
		if excused {
			r.ErrorsExcused++
			continue
		}
		r.ClientErrors++
		r.ErrorsByCause[e.Cause]++
		if len(r.ErrorSamples) < 20 {
			r.ErrorSamples = append(r.ErrorSamples, fmt.Sprintf("%.1fs %s", e.At.Sub(s.Start).Seconds(), e.What))
		}
	}
	for i := range r.Failovers {
		f := &r.Failovers[i]
		if at, ok := last[i]; ok {
			f.RecoveredMS = max(f.RecoveredMS, math.Round(float64(at.Sub(f.At).Microseconds())/10)/100)
		}
		if f.DetectedMS < 0 || f.RecoveredMS < 0 || (f.WindowMS > 0 && f.RecoveredMS > f.WindowMS) {
			r.WindowsHeld = false
		}
	}
	for _, l := range s.Late {
		r.LongestLate = max(r.LongestLate, float64(l.Took.Milliseconds()))
	}
}

// OK is the verdict: the books balance, no session is lost, and no error reached a client outside the window of an
// injected failure, and every window held.
func (r *Report) OK() bool {
	return r.Balanced && r.SessionsLost == 0 && r.ClientErrors == 0 && r.WindowsHeld
}

// Save writes the JSON.
func (r *Report) Save(name string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-26s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "\nPlayed %d requests of %d clients in %.1f s (%.0f MB)\n", r.Requests, r.Clients, r.DurationS,
		r.MegaBytes)
	line("errors", "%d outside of windows, %d within", r.ClientErrors, r.ErrorsExcused)
	for cause, n := range r.ErrorsByCause {
		line("", "%s: %d", cause, n)
	}
	for _, e := range r.ErrorSamples[:min(len(r.ErrorSamples), 8)] {
		line("", "%s", e)
	}
	line("honest 404s of the log", "%d", r.Honest404)
	line("malformed lines", "%d", r.Malformed)
	line("clients at unknown places", "%d", r.Unlocated)
	line("edge hit ratio", "%.1f %%, cache %.1f %%", 100*r.EdgeHits, 100*r.CacheHits)
	line("queue", "%.0f published, %.0f deliveries, %.0f leases expired, %.0f commits", r.Queue["published"],
		r.Queue["delivered"], r.Queue["leases_expired"], r.Queue["commits"])
	line("autoscaler", "%d moves; workers: %d at the peak, %d at the end; oldest waiting message %.2f s", r.Moves,
		r.PeakWorkers, r.EndWorkers, r.OldestAge)
	line("write repetitions", "%d, longest write %.0f ms", r.Repeats, r.LongestLate)
	line("requests per center", "%s", counts(r.PerCenter))
	line("requests per web server", "%s", counts(r.PerWeb))
	line("reads per database node", "%s", counts(r.ReadsPer))
	line("writes per database node", "%s", counts(r.WritesPer))
	fmt.Fprintf(w, "\n  %-58s %8s %9s %9s %9s %9s\n", "latency in ms", "count", "p50", "p90", "p99", "max")
	for _, name := range slices.Sorted(maps.Keys(r.Latency)) {
		q := r.Latency[name]
		fmt.Fprintf(w, "  %-58s %8d %9.1f %9.1f %9.1f %9.1f\n", name, q.Count, q.P50, q.P90, q.P99, q.Max)
	}
	if len(r.Failovers) > 0 {
		fmt.Fprintf(w, "\n  %-34s %7s %13s %13s %11s\n", "injected failure", "at s", "detected ms", "recovered ms",
			"window ms")
		for _, f := range r.Failovers {
			fmt.Fprintf(w, "  %-34s %7.1f %13.0f %13.0f %11.0f\n", f.What, f.AtS, f.DetectedMS, f.RecoveredMS,
				f.WindowMS)
		}
	}
	fmt.Fprintf(w, "\nBooks\n")
	line("views", "%d acknowledged, %d counted", r.AckedViews, r.CountedViews)
	line("writes", "%d acknowledged, %d stored", r.AckedWrites, r.StoredWrites)
	line("uploads", "%d acknowledged, %d resized", r.AckedUploads, r.ResizedUploads)
	line("sessions", "%d, %d lost", r.Sessions, r.SessionsLost)
	for _, i := range r.Imbalances {
		line("IMBALANCE", "%s", i)
	}
	if !r.Valid {
		line("INVALID RUN", "the player itself was late: %.0f ms at p99, limit %d", r.SendLagP99,
			sendLagLimit.Milliseconds())
	}
	verdict := "FAILED"
	if r.OK() {
		verdict = "OK: the books balance, no session is lost, no error outside of a window"
	} else if !r.WindowsHeld {
		verdict += ": a failure was felt for longer than its window"
	}
	fmt.Fprintln(w, verdict)
}

func counts[N int | uint64](m map[string]N) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}
