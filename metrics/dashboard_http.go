package metrics

import (
	"embed"
	"encoding/json"
	"expvar"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page
var pageFiles embed.FS

// sameOrigin refuses what another site makes a browser send.
var sameOrigin = http.NewCrossOriginProtection()

// ServeHTTP serves the page and its data.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allow := d.o.Authorize
	if allow == nil {
		allow = FromThisMachine
	}
	if !allow(r) {
		d.o.Security.ReportDetail(r.Context(), AdminRefused, "", r.RemoteAddr)
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	if err := sameOrigin.Check(r); err != nil {
		d.o.Security.ReportDetail(r.Context(), AdminRefused, "", r.RemoteAddr)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	path := "/" + strings.TrimPrefix(r.URL.Path, "/")
	if name, ok := strings.CutPrefix(path, "/debug/pprof/"); ok {
		profiles(w, r, name)
		return
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'")
	switch path {
	case "/":
		http.ServeFileFS(w, r, pageFiles, "page/index.html")
	case "/app.js", "/draw.js", "/style.css":
		http.ServeFileFS(w, r, pageFiles, "page"+path)
	case "/data":
		answerJSON(w, d.data())
	case "/logs":
		d.searchLogs(w, r)
	case "/level":
		if d.o.Logs == nil {
			http.NotFound(w, r)
			return
		}
		d.o.Logs.ServeLevel(w, r)
	case "/rules.yaml":
		h.Set("Content-Type", "application/yaml")
		_, _ = w.Write(d.m.Rules())
	case "/grafana.json":
		b, _ := d.m.Grafana(d.o.Title, d.own...) // what a broken collector leaves out is not there
		h.Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	case "/debug/vars":
		expvar.Handler().ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

// profiles are net/http/pprof's, which registers itself on the default mux only.
func profiles(w http.ResponseWriter, r *http.Request, name string) {
	switch name {
	case "":
		pprof.Index(w, r)
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Handler(name).ServeHTTP(w, r)
	}
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the reader may have left
}

type dashboardData struct {
	Title    string            `json:"title"`
	Now      int64             `json:"now"`
	Interval int64             `json:"interval_ms"`
	Times    []int64           `json:"times"`
	Tiles    []Tile            `json:"tiles"`
	Charts   []chart           `json:"charts"`
	Topology Topology          `json:"topology"`
	SLOs     []SLOStatus       `json:"slos"`
	Events   []Event           `json:"events"`
	Errors   []ErrorGroup      `json:"errors"`
	Security map[string]uint64 `json:"security,omitempty"`
	Cohorts  []Cohort          `json:"cohorts"`
	Logs     bool              `json:"logs"`
	Servers  []string          `json:"servers"`
	Level    string            `json:"level,omitempty"`
}

func (d *Dashboard) data() dashboardData {
	out := dashboardData{Title: d.o.Title, Now: time.Now().UnixMilli(), Interval: d.o.Interval.Milliseconds(),
		Tiles: []Tile{}, SLOs: []SLOStatus{}, Events: []Event{}, Errors: []ErrorGroup{}, Servers: []string{},
		Cohorts: []Cohort{}}
	if d.o.Topology != nil {
		out.Topology = d.o.Topology()
	}
	if d.o.Tiles != nil {
		out.Tiles = append(out.Tiles, d.o.Tiles()...)
	}
	for _, o := range d.m.objectives() {
		out.SLOs = append(out.SLOs, o.Status())
	}
	if d.o.Events != nil {
		out.Events = append(out.Events, d.o.Events()...)
	}
	if s := d.o.Security; s != nil {
		out.Security = s.Counts()
		for _, e := range s.Recent() {
			out.Events = append(out.Events, Event{At: e.At, Kind: "security",
				Text: strings.Join(slices.DeleteFunc([]string{e.Kind, e.User, e.Detail}, func(s string) bool {
					return s == ""
				}), " · ")})
		}
		slices.SortStableFunc(out.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	}
	if d.o.Retention != nil {
		out.Cohorts = d.o.Retention.Cohorts(time.Now())
	}
	if d.o.Store != nil {
		out.Logs, out.Errors, out.Servers = true, d.o.Store.Errors(), d.o.Store.Servers()
	}
	if d.o.Logs != nil {
		out.Level = d.o.Logs.Level().Level().String()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out.Times = append([]int64{}, d.times...)
	for _, c := range d.charts {
		c.Lines = append([]chartLine{}, c.Lines...)
		out.Charts = append(out.Charts, c)
	}
	return out
}

// searchLogs answers with the records that match the query: from, to (RFC 3339) or last (a duration), level, server,
// id, text, limit.
func (d *Dashboard) searchLogs(w http.ResponseWriter, r *http.Request) {
	if d.o.Store == nil {
		http.NotFound(w, r)
		return
	}
	v := r.URL.Query()
	q := LogQuery{Level: v.Get("level"), Server: v.Get("server"), ID: v.Get("id"), Text: v.Get("text")}
	for name, to := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if s := v.Get(name); s != "" {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				http.Error(w, "parameter "+strconv.Quote(name)+": want a time such as 2026-01-02T15:04:05Z",
					http.StatusBadRequest)
				return
			}
			*to = t
		}
	}
	if s := v.Get("last"); s != "" {
		ago, err := time.ParseDuration(s)
		if err != nil {
			http.Error(w, `parameter "last": want a duration such as 15m`, http.StatusBadRequest)
			return
		}
		q.From = time.Now().Add(-ago)
	}
	if s := v.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			http.Error(w, `parameter "limit": want a number from 1 to 1000`, http.StatusBadRequest)
			return
		}
		q.Limit = n
	}
	answerJSON(w, d.o.Store.Search(q))
}

// FromThisMachine reports whether a request comes from a loopback address and names a loopback Host.
func FromThisMachine(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	hostIP, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !hostIP.IsLoopback()) {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}
