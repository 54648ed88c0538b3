package metrics

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of security events that have an alert rule of their own.
const (
	FailedLogin  = "failed_login"  // a wrong password or code, as the application reports it
	RefreshReuse = "refresh_reuse" // a refresh token used twice: one of the two was stolen
	BadSignature = "bad_signature" // a cookie or token that nobody with the key has made
	RateLimited  = "rate_limited"  // a client over its limit
	AdminRefused = "admin_refused" // a call to an administrative page without the right to it
	RevokedUse   = "revoked_use"   // a session or token used after it was revoked
	CrossOrigin  = "cross_origin"  // a request that another site made a browser send
)

// said are the kinds of packages session and token that have another name here.
var said = map[string]string{"login_failed": FailedLogin, "bad_cookie": BadSignature, "swapped_record": BadSignature,
	"bad_record":    BadSignature,
	"revoked_token": RevokedUse, "csrf": CrossOrigin}

// ordinary are kinds that they report of every user: counted only when asked for.
var ordinary = map[string]bool{"login": true, "logout": true, "revoked": true, "unknown_session": true}

// SecurityOptions configure Security. The zero value is ready.
type SecurityOptions struct {
	// Kinds are those of the application, beside the constants of this package. Others are counted as "other".
	Kinds []string
	// Log gets a record at level Warn for each event. Nil logs nothing.
	Log *slog.Logger
	// Keep is how many of the latest events Recent returns. Zero means 200.
	Keep int
}

// Security is the one stream of what security monitoring wants to know. All methods are safe for concurrent use.
type Security struct {
	o      SecurityOptions
	events series
	counts map[string]*atomic.Uint64 // made once: kinds never come from a client

	mu     sync.Mutex // guards what follows
	recent []SecurityEvent
	n      int
}

// SecurityEvent is one of the latest events.
type SecurityEvent struct {
	At     time.Time
	Kind   string
	User   string // as far as it is known
	Detail string
}

// Security adds the stream, its series security_events_total and, to Rules, its alerts.
func (m *Metrics) Security(o SecurityOptions) *Security {
	if o.Keep <= 0 {
		o.Keep = 200
	}
	s := &Security{o: o, events: newSeries(m.name("security_events_total"), "Security events by kind", counter, "kind"),
		counts: map[string]*atomic.Uint64{}}
	for _, k := range append([]string{FailedLogin, RefreshReuse, BadSignature, RateLimited, AdminRefused, RevokedUse,
		CrossOrigin, "other"}, o.Kinds...) {
		s.counts[k] = new(atomic.Uint64)
	}
	m.must(s)
	m.mu.Lock()
	m.security = s
	m.mu.Unlock()
	return s
}

// Report counts an event, keeps it and logs it. It has the form of the Event hooks of packages session and token and
// knows their kinds ("login-failed" is failed_login); what they report of every user ("login", "logout", "revoked",
// "unknown-session") counts if it is among SecurityOptions.Kinds. A nil Security does nothing.
func (s *Security) Report(ctx context.Context, kind, user string) {
	s.ReportDetail(ctx, kind, user, "")
}

// ReportDetail is Report with a text for whoever looks into it; it must not hold secrets.
func (s *Security) ReportDetail(ctx context.Context, kind, user, detail string) {
	if s == nil {
		return
	}
	kind = strings.ReplaceAll(kind, "-", "_")
	if k, ok := said[kind]; ok {
		kind = k
	}
	if ordinary[kind] && s.counts[kind] == nil {
		return
	}
	n := s.counts[kind]
	if n == nil {
		n = s.counts["other"]
	}
	n.Add(1)
	e := SecurityEvent{time.Now(), kind, user, detail}
	s.mu.Lock()
	if len(s.recent) < s.o.Keep {
		s.recent = append(s.recent, e)
	} else {
		s.recent[s.n%s.o.Keep] = e
	}
	s.n++
	s.mu.Unlock()
	if s.o.Log != nil {
		s.o.Log.LogAttrs(ctx, slog.LevelWarn, "security event", slog.String("kind", kind), slog.String("user", user),
			slog.String("detail", detail))
	}
}

// Recent returns the latest events, oldest first.
func (s *Security) Recent() []SecurityEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.n % s.o.Keep
	if len(s.recent) < s.o.Keep {
		at = 0
	}
	return append(slices.Clone(s.recent[at:]), s.recent[:at]...)
}

// Counts returns the events by kind.
func (s *Security) Counts() map[string]uint64 {
	out := make(map[string]uint64, len(s.counts))
	for k, n := range s.counts {
		out[k] = n.Load()
	}
	return out
}

// Describe implements prometheus.Collector.
func (s *Security) Describe(ch chan<- *prometheus.Desc) { ch <- s.events.desc }

// Collect implements prometheus.Collector. Kinds without an event are there too: a rate needs a counter that starts at
// 0.
func (s *Security) Collect(ch chan<- prometheus.Metric) {
	for k, n := range s.counts {
		ch <- s.events.metric(float64(n.Load()), k)
	}
}

func (s *Security) render(p *page, constant string) {
	f := p.family(&s.events)
	for _, k := range slices.Sorted(maps.Keys(s.counts)) {
		f.sample(join(constant, renderLabels(s.events.labels, []string{k})), float64(s.counts[k].Load()))
	}
}
