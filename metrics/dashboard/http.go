package dashboard

import (
	"embed"
	"encoding/json"
	"expvar"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/security"
	"github.com/tierkit/tierkit/metrics/slo"
)

//go:embed page
var pageFiles embed.FS

// sameOrigin refuses what another site makes a browser send.
var sameOrigin = http.NewCrossOriginProtection()

// ServeHTTP serves the page and its data.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.o.Authorize(r) {
		d.refuse(w, r, "forbidden")
		return
	}
	if err := sameOrigin.Check(r); err != nil {
		d.refuse(w, r, err.Error())
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
	h.Set("Content-Security-Policy", contentPolicy)
	switch path {
	case "/":
		http.ServeFileFS(w, r, pageFiles, "page/index.html")
	case "/app.js", "/draw.js", "/topology.js", "/charts.js", "/style.css":
		http.ServeFileFS(w, r, pageFiles, "page"+path)
	case "/data":
		answerJSON(w, d.data())
	case "/act":
		d.act(w, r)
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
		_, _ = w.Write(slo.Rules(d.m))
	case "/grafana.json":
		d.serveGrafana(w)
	case "/debug/vars":
		expvar.Handler().ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; " +
	"frame-ancestors 'none'"

// refuse answers 403 and reports it to the security events.
func (d *Dashboard) refuse(w http.ResponseWriter, r *http.Request, why string) {
	d.o.Security.ReportDetail(r.Context(), security.AdminRefused, "", r.RemoteAddr)
	http.Error(w, why, http.StatusForbidden)
}

func (d *Dashboard) serveGrafana(w http.ResponseWriter) {
	var panels []slo.Panel
	for _, p := range d.o.Panels {
		panels = append(panels, slo.Panel{Title: p.Title, Unit: p.Unit, PromQL: p.PromQL})
	}
	b, err := slo.Grafana(d.m, d.o.Title, panels...)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
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

// searchLogs answers with the records that match the query: from, to (RFC 3339) or last (a duration), level, server,
// id, text, limit.
func (d *Dashboard) searchLogs(w http.ResponseWriter, r *http.Request) {
	if d.o.Store == nil {
		http.NotFound(w, r)
		return
	}
	v := r.URL.Query()
	q := logs.Query{Level: v.Get("level"), Server: v.Get("server"), ID: v.Get("id"), Text: v.Get("text")}
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
