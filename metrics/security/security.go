// Package security counts security events in one stream: what an operator wants to see and be alerted of, whichever
// package or handler reports it. Stream.Report has the form of the Event hooks of packages session and token:
//
//	events, _ := security.New(m, security.Options{})
//	sessions, _ := session.New[User](store, session.Options{Event: events.Report})
package security

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/metrics"
)

// Kinds of security events. Packages session and token report the same strings; the others are for applications.
const (
	LoginFailed   = "login-failed"   // a wrong password or code, as the application reports it
	BadCookie     = "bad-cookie"     // a session cookie that this service did not make
	BadRecord     = "bad-record"     // a session store holds data that does not parse
	SwappedRecord = "swapped-record" // a session record stands under another session's key
	BadSignature  = "bad-signature"  // a token that nobody with a key has made
	RefreshReuse  = "refresh-reuse"  // a refresh token used twice: one of the two users stole it
	RevokedToken  = "revoked-token"  // a token used after it was revoked
	CrossOrigin   = "cross-origin"   // a request that another site made a browser send
	CSRF          = "csrf"           // a form without its token
	RateLimited   = "rate-limited"   // a client over its limit
	AdminRefused  = "admin-refused"  // a call to an administrative page without the right to it
)

// other counts the kinds that nobody has named.
const other = "other"

var kinds = []string{LoginFailed, BadCookie, BadRecord, SwappedRecord, BadSignature, RefreshReuse, RevokedToken,
	CrossOrigin, CSRF, RateLimited, AdminRefused, other}

// ordinary are kinds that packages session and token report of every user: counted only when asked for.
var ordinary = map[string]bool{"login": true, "logout": true, "revoked": true, "unknown-session": true}

// Options configure a Stream. The zero value is ready.
type Options struct {
	// Kinds are those of the application, beside the constants of this package. Other kinds are counted as "other".
	Kinds []string
	// Logger gets a record at level Warn for each event. Nil logs nothing: the records would be as many as the attacks.
	Logger *slog.Logger
	// Keep is how many of the latest events Recent returns. Zero means 200.
	Keep int
}

// Stream is the one stream of security events. All methods are safe for concurrent use.
type Stream struct {
	o      Options
	series string
	counts map[string]*atomic.Uint64 // made once: kinds never come from a client
	sorted []string                  // its keys

	mu     sync.Mutex // guards what follows
	recent []Event
	n      int
}

// Event is one of the latest events.
type Event struct {
	At     time.Time
	Kind   string
	User   string // as far as it is known
	Detail string
}

// New adds the series security_events_total to m and, for slo.Rules, its alerts. It fails for invalid options, and when
// m has a stream already.
func New(m *metrics.Metrics, o Options) (*Stream, error) {
	if o.Keep < 0 {
		return nil, fmt.Errorf("security: Options.Keep is %d: want at least 1", o.Keep)
	}
	if o.Keep == 0 {
		o.Keep = 200
	}
	s := &Stream{o: o, series: m.Name("security_events_total"), counts: map[string]*atomic.Uint64{}}
	for _, k := range slices.Concat(kinds, o.Kinds) {
		if k == "" {
			return nil, fmt.Errorf("security: Options.Kinds has an empty kind")
		}
		s.counts[k] = new(atomic.Uint64)
	}
	s.sorted = slices.Sorted(maps.Keys(s.counts))
	return s, m.Register(s)
}

// Report counts an event, keeps it and logs it. What packages session and token report of every user ("login",
// "logout", "revoked", "unknown-session") counts if it is among Options.Kinds. A nil Stream does nothing.
func (s *Stream) Report(ctx context.Context, kind, user string) {
	s.ReportDetail(ctx, kind, user, "")
}

// ReportDetail is Report with a text for whoever looks into it; it must not hold secrets.
func (s *Stream) ReportDetail(ctx context.Context, kind, user, detail string) {
	if s == nil || ordinary[kind] && s.counts[kind] == nil {
		return
	}
	n := s.counts[kind]
	if n == nil {
		n = s.counts[other]
	}
	n.Add(1)
	e := Event{time.Now(), kind, user, detail}
	s.mu.Lock()
	if len(s.recent) < s.o.Keep {
		s.recent = append(s.recent, e)
	} else {
		s.recent[s.n%s.o.Keep] = e
	}
	s.n++
	s.mu.Unlock()
	if s.o.Logger != nil {
		s.o.Logger.LogAttrs(ctx, slog.LevelWarn, "security event", slog.String("kind", kind), slog.String("user", user),
			slog.String("detail", detail))
	}
}

// Recent returns the latest events, oldest first.
func (s *Stream) Recent() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.n % s.o.Keep
	if len(s.recent) < s.o.Keep {
		at = 0
	}
	return append(slices.Clone(s.recent[at:]), s.recent[:at]...)
}

// Counts returns the events by kind.
func (s *Stream) Counts() map[string]uint64 {
	out := make(map[string]uint64, len(s.counts))
	for k, n := range s.counts {
		out[k] = n.Load()
	}
	return out
}

// Collect implements metrics.Collector. Kinds without an event are there too: a rate needs a counter that starts at 0.
func (s *Stream) Collect(to *metrics.Scrape) {
	for _, k := range s.sorted {
		to.Counter(s.series, "Security events by kind", float64(s.counts[k].Load()), "kind", k)
	}
}

func (s *Stream) String() string { return s.series }
